"""The input of a response as the messages of a chat.

Items are finer than messages: what a model did in one turn (reasoning, text, calls) is several items and
one message.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ekiben.errors import InvalidRequest, UnsupportedParameter

CUSTOM_INPUT: Final = "input"
"""The one parameter of the function that stands for a custom tool."""


class Messages:
    """Messages, and for each the place in the request that it came from."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.sources: list[str] = []
        self._turn: dict[str, Any] | None = None

    def add(self, message: dict[str, Any], source: str) -> None:
        self._turn = None
        self._append(message, source)

    def turn(self, source: str) -> dict[str, Any]:
        """The model's own message that the items of one turn go into."""
        if self._turn is None:
            self._turn = {"role": "assistant"}
            self._append(self._turn, source)
        return self._turn

    def _append(self, message: dict[str, Any], source: str) -> None:
        self.messages.append(message)
        self.sources.append(source)


def read_input(given: str | Sequence[Mapping[str, Any]], *, instructions: str | None) -> Messages:
    """Raises InvalidRequest, and UnsupportedParameter for items that no engine can be told."""
    read = Messages()
    if instructions:
        read.add({"role": "system", "content": instructions}, "instructions")
    if isinstance(given, str):
        read.add({"role": "user", "content": given}, "input")
        return read
    for index, item in enumerate(given):
        _read_item(read, item, f"input.{index}")
    for message in read.messages:
        message.setdefault("content", None if "tool_calls" in message else "")
    return read


def encrypted(text: str) -> str:
    """Reasoning for a client that sends it back: opaque, and no secret, since its text is beside it."""
    return base64.b64encode(text.encode()).decode("ascii")


def _read_item(read: Messages, item: Mapping[str, Any], source: str) -> None:
    match item.get("type") or ("message" if "content" in item else "item_reference"):
        case "message":
            _read_message(read, item, source)
        case "reasoning":
            text = _reasoning(item, source)
            if text:
                read.turn(source)["reasoning_content"] = text
        case "function_call":
            _read_call(read, item, item["arguments"], source)
        case "custom_tool_call":
            _read_call(read, item, json.dumps({CUSTOM_INPUT: item["input"]}), source)
        case "function_call_output" | "custom_tool_call_output":
            _read_output(read, item, source)
        case "item_reference":
            raise InvalidRequest(
                "references to items are known to the platform only: send the items themselves",
                param=f"{source}.type",
            )
        case kind:
            raise UnsupportedParameter(
                f"items of type {kind!r} belong to tools that are not here: leave them out",
                param=f"{source}.type",
            )


def _read_message(read: Messages, item: Mapping[str, Any], source: str) -> None:
    content = item["content"]
    if not isinstance(content, str):
        content = [_part(part, f"{source}.content.{index}") for index, part in enumerate(content)]
    if item["role"] != "assistant":
        read.add({"role": item["role"], "content": content}, source)
        return
    turn = read.turn(source)
    if turn.get("content") is not None or "tool_calls" in turn:
        read.add({"role": "assistant", "content": content}, source)
    else:
        turn["content"] = content


def _part(part: Mapping[str, Any], source: str) -> dict[str, Any]:
    match part["type"]:
        case "input_text" | "output_text" | "reasoning_text":
            return {"type": "text", "text": part["text"]}
        case "refusal":
            return {"type": "refusal", "refusal": part["refusal"]}
        case "input_image":
            return _image(part, source)
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case "input_file":
            return _file(part, source)
        case kind:
            raise UnsupportedParameter(f"parts of type {kind!r} cannot be read here", param=f"{source}.type")


def _image(part: Mapping[str, Any], source: str) -> dict[str, Any]:
    if part.get("file_id") is not None:
        raise _no_files(f"{source}.file_id")
    if not part.get("image_url"):
        raise InvalidRequest("an image needs an 'image_url'", param=f"{source}.image_url")
    detail = part.get("detail") or "auto"
    if detail == "original":
        raise UnsupportedParameter("'detail' can be auto, low or high here", param=f"{source}.detail")
    return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": detail}}


def _file(part: Mapping[str, Any], source: str) -> dict[str, Any]:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise _no_files(f"{source}.{name}")
    file = {name: part[name] for name in ("file_data", "filename") if part.get(name) is not None}
    return {"type": "file", "file": file}


def _no_files(param: str) -> UnsupportedParameter:
    return UnsupportedParameter("files are not kept here: send the data itself", param=param)


def _reasoning(item: Mapping[str, Any], source: str) -> str:
    parts = item.get("content") or item.get("summary") or ()
    if parts or item.get("encrypted_content") is None:
        return "".join(part["text"] for part in parts)
    try:
        return base64.b64decode(item["encrypted_content"], validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            "this reasoning was not made here, and cannot be read: leave the item out",
            param=f"{source}.encrypted_content",
        ) from None


def _read_call(read: Messages, item: Mapping[str, Any], arguments: str, source: str) -> None:
    if item.get("namespace") is not None:
        raise UnsupportedParameter("namespaces of tools are not known here", param=f"{source}.namespace")
    function = {"name": item["name"], "arguments": arguments}
    calls = read.turn(source).setdefault("tool_calls", [])
    calls.append({"id": item["call_id"], "type": "function", "function": function})


def _read_output(read: Messages, item: Mapping[str, Any], source: str) -> None:
    if not item.get("call_id"):
        raise InvalidRequest("'call_id' must name the call", param=f"{source}.call_id")
    output = item["output"]
    if not isinstance(output, str):
        for index, part in enumerate(output):
            if part["type"] != "input_text":
                raise UnsupportedParameter(
                    "what a tool returns can only be text here", param=f"{source}.output.{index}.type"
                )
        output = [{"type": "text", "text": part["text"]} for part in output]
    read.add({"role": "tool", "tool_call_id": item["call_id"], "content": output}, source)
