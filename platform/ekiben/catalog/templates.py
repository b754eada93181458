"""Chat templates of specs: read from files when a spec is added, and tried out before they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ekiben.catalog.document import Problem
from ekiben.contract.model import ModelSpec
from ekiben.errors import ConfigError, InvalidRequest

OPTION: Final = "chat_template"
MAX_BYTES: Final = 2**18
_MARKS: Final = ("{{", "{%")
_TRIAL: Final = {
    "messages": [{"role": "user", "content": "Hello"}],
    "add_generation_prompt": True,
    "bos_token": "",
    "eos_token": "",
}


def with_templates_read(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with the text of each template that it names by a path; relative ones count from `folder`.

    Raises ConfigError when a file cannot be read.
    """
    changes: dict[str, object] = {}
    if spec.chat_template is not None:
        changes["chat_template"] = _read(spec.chat_template, folder)
    changes["variants"] = tuple(
        variant.model_copy(update={"options": variant.options | {OPTION: _read(text, folder)}})
        if isinstance(text := variant.options.get(OPTION), str)
        else variant
        for variant in spec.variants
    )
    return spec.model_copy(update=changes)


def template_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Templates that are none, or do not keep within their bounds."""
    if spec.chat_template is not None and (reason := _problem(spec.chat_template)):
        yield Problem(("chat_template",), reason)
    for index, variant in enumerate(spec.variants):
        text = variant.options.get(OPTION)
        if isinstance(text, str) and (reason := _problem(text)):
            yield Problem(("variants", index, "options", OPTION), reason)


def _is_text(text: str) -> bool:
    return any(mark in text for mark in _MARKS)


def _read(text: str, folder: Path) -> str:
    if _is_text(text):
        return text
    path = folder / Path(text).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"the chat template {path} is larger than {MAX_BYTES} bytes")
        return content.decode()
    except OSError as error:
        raise ConfigError(f"the chat template {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the chat template {path} is not a text in UTF-8") from None


def _problem(text: str) -> str | None:
    """As the end of a sentence. What it makes of a conversation is its own affair, as long as it ends."""
    if not _is_text(text):
        return "is no template: that has {{ }} or {% %} in it (paths are read where a spec comes from a file)"
    from ekiben.contract.text.templates import ChatTemplate, OutOfBounds

    try:
        template = ChatTemplate(text)
        template.render(_TRIAL)
    except ConfigError as error:
        return f"cannot be used: {error.message}"
    except InvalidRequest as error:
        stopped = isinstance(error.__cause__, OutOfBounds)
        return f"cannot be used: {error.message}" if stopped else None
    return None
