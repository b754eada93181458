"""vLLM's errors as ours.

Its codes are numbers and its messages name its own command line, so what a client can mend is told anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from ekiben.contract import EngineError, InvalidRequest, LoadFailed

_LONGEST: Final = 300
_TOO_LONG: Final = ("maximum context length", "max_model_len", "maximum model length")
_EXTRAS: Final = re.compile(r" \((?:parameter|value)=.*\)$", re.DOTALL)
"""What vLLM puts behind a message for its own answer."""
_OWN_NAMES: Final = {"input_text": None, "input_tokens": None}
"""Fields that are vLLM's and not the request's."""


def told(error: Mapping[str, Any], body: Mapping[str, Any]) -> Exception:
    """What `error` of an answer of vLLM's stands for, `body` being the request."""
    message = str(error.get("message", ""))
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 500:
        return refused(message, error.get("param"), body)
    return EngineError(f"vLLM failed: {_sentence(message) or 'it does not say why'}")


def refused(message: str, param: str | None, body: Mapping[str, Any]) -> InvalidRequest:
    """For what the client can mend."""
    prompt = "messages" if "messages" in body else "prompt"
    if any(mark in message for mark in _TOO_LONG):
        return InvalidRequest(_sentence(message), param=prompt, code="context_length_exceeded")
    return InvalidRequest(_sentence(message), param=_OWN_NAMES.get(param or "", param))


def load_failure(error: BaseException) -> LoadFailed:
    """Why the engine did not come up. The log has the rest."""
    if isinstance(error, ValidationError):  # which would list all that it was given
        error = ValueError(error.errors()[0]["msg"].removeprefix("Value error, "))
    text = _sentence(str(error)) or type(error).__name__
    return LoadFailed(f"vLLM cannot load the model: {text}")


def _sentence(text: str) -> str:
    """One line, in the manner of our own messages."""
    line = " ".join(_EXTRAS.sub("", text).split())[:_LONGEST].rstrip(".")
    return line if line[1:2].isupper() else line[:1].lower() + line[1:]
