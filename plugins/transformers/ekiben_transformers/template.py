"""Chat templates: the model's own or the spec's, rendered in the library's sandbox, within bounds.

A template comes with the weights and is a program. The sandbox keeps it from the process; time and size are
bounded here. Templates in requests are never taken.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from ekiben.contract import EngineError, InvalidRequest, LoadFailed
from ekiben_transformers.conversation import with_tools_told

MAX_RENDER_S: Final = 2.0
MAX_CHARACTERS: Final = 16 * 2**20
_MAX_MESSAGE: Final = 200


class _TooLong(BaseException):
    """Raised inside a template by the watch. Templates cannot catch anything."""


class ChatTemplate:
    """Blocking, for one thread at a time."""

    def __init__(self, source: str, tool_source: str | None, tokens: Mapping[str, Any]) -> None:
        """`tokens`: what the tokenizer calls its special tokens, which templates name.

        Raises LoadFailed when it is no template.
        """
        self.source = source
        self._tokens = tokens
        self._plain = _compile(source)
        self._with_tools = _compile(tool_source) if tool_source else self._plain
        self.knows_tools = "tools" in (tool_source or source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Raises InvalidRequest for a conversation that the template refuses."""
        if not self.knows_tools:
            messages, tools = with_tools_told(messages, tools), ()
        template = self._with_tools if tools else self._plain
        values = {
            **self._tokens,
            **(variables or {}),
            "messages": list(messages),
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        watch = _Watch(MAX_RENDER_S)
        try:
            with watch:
                return _joined(template, values)
        except _TooLong:
            raise EngineError(
                f"the chat template took longer than {MAX_RENDER_S:g} s: give the model another one"
            ) from None
        except (TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"the model's chat template does not take this conversation: {str(error)[:_MAX_MESSAGE]}",
                param="messages",
            ) from None


def _compile(source: str) -> Any:
    try:
        return _compile_jinja_template(source)
    except TemplateError as error:
        raise LoadFailed(f"the chat template is none: {str(error)[:_MAX_MESSAGE]}") from None


def _joined(template: Any, values: Mapping[str, Any]) -> str:
    parts: list[str] = []
    size = 0
    for part in template.generate(values):
        size += len(part)
        if size > MAX_CHARACTERS:
            raise EngineError(f"the chat template wrote more than {MAX_CHARACTERS} characters")
        parts.append(part)
    return "".join(parts)


class _Watch:
    """Ends what its thread does in the block when it takes too long, wherever in Python it is by then."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._caller = threading.get_ident()
        self._thread = threading.Thread(target=self._wait, name="template watch", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over.set()

    def _wait(self) -> None:
        if self._over.wait(self._limit_s):
            return
        with self._lock:
            if not self._over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._caller), ctypes.py_object(_TooLong)
                )
