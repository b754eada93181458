"""Tools of a response as the functions of a chat.

A custom tool takes any text; engines know functions only. It becomes a function with one text parameter,
and its calls become calls of the custom tool again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ekiben.errors import InvalidRequest, UnsupportedParameter
from ekiben.runtime.text.responses.items import CUSTOM_INPUT

_CUSTOM_PARAMETERS: Final = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}


def chat_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Raises UnsupportedParameter for tools that somebody else would have to run."""
    return [_chat_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)]


def custom_names(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The tools that are no functions."""
    return frozenset(tool["name"] for tool in tools if tool["type"] == "custom")


def chat_choice(choice: str | Mapping[str, Any]) -> Any:
    """`tool_choice` in the words of a chat."""
    if isinstance(choice, str):
        return choice
    if choice["type"] == "allowed_tools":
        tools = [_named(tool, f"tool_choice.tools.{index}") for index, tool in enumerate(choice["tools"])]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": tools}}
    return _named(choice, "tool_choice")


def custom_input(arguments: str) -> str:
    """What a call of a custom tool says; of one that was cut short, as much as there is."""
    for end in ("", '"}', "}"):
        try:
            value = json.loads(arguments + end)
        except ValueError:
            continue
        given = value.get(CUSTOM_INPUT) if isinstance(value, dict) else None
        if isinstance(given, str):
            return given
    return arguments


def _chat_tool(tool: Mapping[str, Any], source: str) -> dict[str, Any]:
    if tool["type"] not in ("function", "custom"):
        raise UnsupportedParameter(
            f"tools of type {tool['type']!r} are not run here: use functions", param=f"{source}.type"
        )
    for name, neutral in _NEUTRAL.items():
        if tool.get(name) not in (None, neutral):
            raise UnsupportedParameter(f"{name!r} cannot be honoured: leave it out", param=f"{source}.{name}")
    function = {"name": tool["name"]}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    if tool["type"] == "custom":
        if (tool.get("format") or {"type": "text"})["type"] != "text":
            raise UnsupportedParameter(
                "grammars of custom tools cannot be honoured: use a function with a schema",
                param=f"{source}.format.type",
            )
        return {"type": "function", "function": function | {"parameters": _CUSTOM_PARAMETERS}}
    for name in ("parameters", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


_NEUTRAL: Final[Mapping[str, Any]] = {
    "allowed_callers": ["direct"],
    "async": False,
    "defer_loading": False,
    "output_schema": None,
}


def _named(tool: Mapping[str, Any], source: str) -> dict[str, Any]:
    if tool.get("type") not in ("function", "custom"):
        raise UnsupportedParameter("only functions and custom tools can be chosen", param=f"{source}.type")
    if not isinstance(name := tool.get("name"), str):
        raise InvalidRequest(f"'{source}.name' is required", param=f"{source}.name")
    return {"type": "function", "function": {"name": name}}
