"""Tools, and which of them must be used, in OpenAI's words."""

from __future__ import annotations

import re
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter
from ekiben_anthropic.fields import Fields

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODES: Final = {"auto": "auto", "any": "required", "none": "none"}


def tool_fields(request: Fields) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel_tool_calls`, as far as they are given."""
    fields: dict[str, Any] = {}
    if tools := request.objects("tools"):
        fields["tools"] = [_tool(tool) for tool in tools]
    if (choice := request.inner("tool_choice")) is not None:
        fields |= _choice(choice)
        if not tools and choice.value("type") in ("any", "tool"):
            raise InvalidRequest("'tool_choice' needs 'tools'", param="tool_choice")
    return fields


def _tool(tool: Fields) -> dict[str, Any]:
    kind = tool.text("type") or "custom"
    if kind != "custom":
        path = tool.path("type")
        raise UnsupportedParameter(
            f"{path!r}: there are no tools of the server's own here, such as {kind[:64]!r}", param=path
        )
    name = tool.required_text("name")
    if not _NAME.fullmatch(name):
        raise tool.wrong("name", "must be up to 64 letters, digits, _ and -")
    schema = tool.required("input_schema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise tool.wrong("input_schema", "must be a JSON schema of type 'object'")
    function: dict[str, Any] = {"name": name, "parameters": schema}
    if (description := tool.text("description")) is not None:
        function["description"] = description
    if (strict := tool.flag("strict")) is not None:
        function["strict"] = strict
    tool.needless("cache_control", "eager_input_streaming")
    tool.neutral("allowed_callers", ["direct"])
    tool.neutral("defer_loading", False)
    tool.neutral("input_examples", [])
    tool.finish()
    return {"type": "function", "function": function}


def _choice(choice: Fields) -> dict[str, Any]:
    kind = choice.choice("type", "auto", "any", "tool", "none")
    fields: dict[str, Any] = {"tool_choice": _MODES.get(kind)}
    if kind == "tool":
        name = choice.required_text("name")
        fields["tool_choice"] = {"type": "function", "function": {"name": name}}
    if choice.flag("disable_parallel_tool_use"):
        fields["parallel_tool_calls"] = False
    choice.finish()
    return fields
