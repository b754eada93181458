"""Tools of a chat request: which ones, whether one must be called, and the call that the model then writes.

Left to itself a model may talk before it calls, even when a call is required, and small models never get to
it. A call that must be made is therefore asked for as JSON of the tool's schema, and read back as a call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from ekiben.contract.text.schemas import check_schema
from ekiben.errors import InvalidRequest, UnsupportedParameter

MAX_CALLS: Final = 16
"""That must be made, in one answer."""
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPlan:
    """What is sent of the tools, and the functions of which one must be called (none: as it likes)."""

    fields: Mapping[str, Any]
    must_call: Sequence[Mapping[str, Any]] = ()
    several: bool = False
    """Whether it may make several of the calls that it must make."""

    def reader(self) -> CallsReader | None:
        """For one answer."""
        if not self.must_call:
            return None
        only = len(self.must_call) == 1 and not self.several
        return CallsReader(self.must_call[0]["name"] if only else None, several=self.several)


def plan_tools(body: Mapping[str, Any]) -> ToolPlan:
    """Raises InvalidRequest and UnsupportedParameter."""
    tools = body.get("tools") or []
    choice = body.get("tool_choice")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("'tool_choice' needs 'tools'", param="tool_choice")
        return ToolPlan(fields={})
    for index, tool in enumerate(tools):
        _check_tool(tool, index)
    if isinstance(choice, Mapping):
        tools, choice = _chosen(tools, choice)
    if choice == "required":
        functions = [tool["function"] for tool in tools]
        # The tools are described to the model, and what it writes is the schema's affair.
        several = body.get("parallel_tool_calls") is True  # small models would find no end by themselves
        written = _call_format(functions, several=several)
        fields = {"tools": tools, "tool_choice": "none", "response_format": written}
        return ToolPlan(fields=fields, must_call=functions, several=several)
    fields = {"tools": tools, "tool_choice": choice or "auto"}
    if body.get("parallel_tool_calls") is not None:
        fields["parallel_tool_calls"] = body["parallel_tool_calls"]
    return ToolPlan(fields=fields)


def _check_tool(tool: Mapping[str, Any], index: int) -> None:
    if tool["type"] != "function":
        raise UnsupportedParameter(
            f"tools of type {tool['type']!r} cannot be honoured: use functions", param=f"tools.{index}.type"
        )
    if not _TOOL_NAME.fullmatch(tool["function"]["name"]):
        raise InvalidRequest(
            "the name of a function is up to 64 letters, digits, _ and -",
            param=f"tools.{index}.function.name",
        )
    check_schema(tool["function"].get("parameters"), f"tools.{index}.function.parameters")


def _chosen(
    tools: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], str]:
    """The tools that an object in `tool_choice` leaves, and what it says of them."""
    if choice["type"] == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = [_name(tool) for tool in allowed["tools"]]
        mode: str = allowed["mode"]
    else:
        names, mode = [_name(choice)], "required"
    known = {tool["function"]["name"]: tool for tool in tools}
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"'tool_choice' names {name!r}, which is not in 'tools'", param="tool_choice"
            )
    if not names:
        raise InvalidRequest("'tool_choice' allows no tool at all: choose 'none'", param="tool_choice")
    return [known[name] for name in names], mode


def _name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if tool.get("type") != "function" or not isinstance(name, str):
        raise UnsupportedParameter("'tool_choice' can only name functions", param="tool_choice")
    return name


def _call_format(functions: Sequence[Mapping[str, Any]], *, several: bool) -> dict[str, Any]:
    """The arguments alone where there is one function; else an object with its name first, or several."""
    schemas = [function.get("parameters") or _NO_PARAMETERS for function in functions]
    if len(functions) == 1 and not several:
        schema: Any = schemas[0]
    else:
        one = {"anyOf": [_call_schema(function["name"], index) for index, function in enumerate(functions)]}
        schema = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_CALLS} if several else one
        schema["$defs"] = {_definition(index): _moved(each, index) for index, each in enumerate(schemas)}
    return {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}


def _call_schema(name: str, index: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{_definition(index)}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _definition(index: int) -> str:
    return f"arguments{index}"


def _moved(schema: Any, index: int) -> Any:
    """A schema as a part of another one: its references to itself begin deeper."""
    if isinstance(schema, Mapping):
        return {
            key: f"#/$defs/{_definition(index)}{value[1:]}"
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, index)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(item, index) for item in schema]
    return schema


class CallsReader:
    """Reads the JSON of calls as the model writes it, and tells them as the deltas of a stream."""

    def __init__(self, name: str | None, *, several: bool) -> None:
        """`name`: of the only function there is. `several`: they come in a list."""
        self._several = several
        self._reader = CallReader(name)
        self._index = -1 if several else 0
        self._opened = False
        self._depth = Depth()
        self.called = False
        """Whether a call has been told of."""

    def feed(self, text: str) -> Iterator[dict[str, Any]]:
        """Entries of `tool_calls`."""
        if not self._several:
            yield from self._tell(self._reader.feed(text))
            return
        begun = 0
        for at, sign in enumerate(text):
            before, after = self._depth.past(sign)
            if not before and after:
                begun = at
                self._index += 1
                self._reader, self._opened = CallReader(None), False
            elif before and not after:
                yield from self._tell(self._reader.feed(text[begun : at + 1]) + self._reader.finish())
                begun = at + 1
        if self._depth.braces:
            yield from self._tell(self._reader.feed(text[begun:]))

    def finish(self) -> Iterator[dict[str, Any]]:
        """The end of what was cut short, or has no end of its own."""
        if not self._several or self._depth.braces:
            yield from self._tell(self._reader.finish())

    def _tell(self, arguments: str) -> Iterator[dict[str, Any]]:
        if self._reader.name is None:
            return
        if not self._opened:
            self._opened = self.called = True
            opening = self._reader.opening()
            opening["function"]["arguments"] = arguments
            yield {"index": self._index} | opening
        elif arguments:
            yield {"index": self._index, "function": {"arguments": arguments}}


def gathered(deltas: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whole calls, of all their deltas."""
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        if "id" in delta:
            calls.append({"id": delta["id"], "type": delta["type"], "function": dict(delta["function"])})
        else:
            calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


class Depth:
    """How deep one is inside the braces of a JSON text."""

    def __init__(self) -> None:
        self.braces = 0
        self._quoted = self._escaped = False

    def past(self, sign: str) -> tuple[int, int]:
        """Before the sign, and after it."""
        before = self.braces
        if self._quoted:
            self._quoted = self._escaped or sign != '"'
            self._escaped = sign == "\\" and not self._escaped
        elif sign == '"':
            self._quoted = True
        elif sign in "{}":
            self.braces += 1 if sign == "{" else -1
        return before, self.braces


class CallReader:
    """Reads the JSON of one call as the model writes it, in pieces of any size."""

    _HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')

    def __init__(self, name: str | None) -> None:
        """`name`: of the only function there is; then the text is its arguments alone."""
        self.id = f"call_{uuid4().hex[:24]}"
        self.name = name
        self._wrapped = name is None
        self._held = ""
        self._told = ""

    def feed(self, text: str) -> str:
        """What more is known of the arguments."""
        if not self._wrapped:
            return text
        self._held += text
        if self.name is None:
            head = self._HEAD.match(self._held)
            if head is None:
                return ""
            self.name = json.loads(head["name"])
            self._held = self._held[head.end() :]
        if not self._told:
            self._held = self._held.lstrip()
        # The last brace closes the object around the arguments, and what is last is not known yet.
        known = len(self._held.rstrip("} \t\r\n"))
        ready, self._held = self._held[:known], self._held[known:]
        self._told += ready
        return ready

    def finish(self) -> str:
        """The end of the arguments. They are no JSON when the model was cut short."""
        if self.name is None:
            return ""
        rest = self._held.rstrip()
        inner = rest.removesuffix("}").rstrip()
        return inner if inner != rest and _is_json(self._told + inner) else rest

    def opening(self) -> dict[str, Any]:
        """The call without its arguments."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name or "", "arguments": ""},
        }


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
