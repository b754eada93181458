"""What a response repeats of its request, looked at before a replica has: for answers that wait for none.

Only the shapes, so that what is repeated is a response as OpenAI writes it; ranges and everything else are
the replica's to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from ekiben.errors import InvalidRequest

_WHERE: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`")


class _Function(msgspec.Struct, tag_field="type", tag="function"):
    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _CustomFormat(msgspec.Struct, tag_field="type", tag="text"):
    pass


class _Custom(msgspec.Struct, tag_field="type", tag="custom"):
    name: str
    description: str | None = None
    format: _CustomFormat | None = None


class _ChosenFunction(msgspec.Struct, tag_field="type", tag="function"):
    name: str


class _ChosenCustom(msgspec.Struct, tag_field="type", tag="custom"):
    name: str


class _Allowed(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class _Choice(msgspec.Struct):
    tool_choice: _ChosenFunction | _ChosenCustom | _Allowed


class _Text(msgspec.Struct, tag_field="type", tag="text"):
    pass


class _JsonObject(msgspec.Struct, tag_field="type", tag="json_object"):
    pass


class _JsonSchema(msgspec.Struct, tag_field="type", tag="json_schema"):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _TextConfig(msgspec.Struct):
    format: _Text | _JsonObject | _JsonSchema | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _Reasoning(msgspec.Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


class _Echo(msgspec.Struct):
    metadata: dict[str, str] | None = None
    reasoning: _Reasoning | None = None
    text: _TextConfig | None = None
    tools: list[_Function | _Custom] | None = None
    truncation: Literal["auto", "disabled"] | None = None


def check_echo(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest with `param`."""
    _check(body, _Echo)
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping):
        _check(body, _Choice)
    elif choice not in (None, "none", "auto", "required"):
        raise InvalidRequest("'tool_choice' must be none, auto, required or an object", param="tool_choice")


def _check(body: Mapping[str, Any], shape: type[msgspec.Struct]) -> None:
    try:
        msgspec.convert(body, shape)
    except msgspec.ValidationError as error:
        reason = str(error)
        where = _WHERE.search(reason)
        param = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", where[1]).removesuffix("....") if where else None
        said = _WHERE.sub("", reason).replace("`", "'")
        raise InvalidRequest(f"{param!r}: {said[:1].lower()}{said[1:]}", param=param) from None
