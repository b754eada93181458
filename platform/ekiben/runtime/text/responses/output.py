"""Items of a response as they are written: what each is, and the events that tell of its growth.

One item grows at a time, except that calls may be written side by side. The numbers of events are not
known here.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from ekiben.responses import item_id
from ekiben.runtime.text.responses.items import encrypted
from ekiben.runtime.text.responses.tools import custom_input

Event: TypeAlias = tuple[str, dict[str, Any]]
"""Type and fields, without the sequence number."""

_PAD: Final = 16


class Item(ABC):
    """One item of the output."""

    kind = ""
    """Of its id."""

    def __init__(self, *, response_id: str, index: int, obfuscated: bool = False) -> None:
        self.index = index
        self.id = item_id(self.kind, response_id, index)
        self.status = "in_progress"
        self._obfuscated = obfuscated

    def opening(self) -> Iterator[Event]:
        """Its first events."""
        yield "response.output_item.added", {"output_index": self.index, "item": self.value()}

    def closing(self, status: str) -> Iterator[Event]:
        """Its last events. `status`: `completed` or `incomplete`."""
        yield from self._done()
        self.status = status
        yield "response.output_item.done", {"output_index": self.index, "item": self.value()}

    @abstractmethod
    def value(self) -> dict[str, Any]:
        """The item as it is now."""

    @abstractmethod
    def _done(self) -> Iterator[Event]:
        """What tells that its parts are whole."""

    def _delta(self, kind: str, text: str, **fields: Any) -> Event:
        value = {**self._place(), "delta": text, **fields}
        if self._obfuscated:
            value["obfuscation"] = secrets.token_urlsafe(_PAD)[: _PAD - len(text) % _PAD]
        return kind, value

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


class Reasoning(Item):
    """What a model thought before it answered."""

    kind = "rs"

    def __init__(self, *, with_encrypted: bool, **place: Any) -> None:
        super().__init__(**place)
        self._text = ""
        self._with_encrypted = with_encrypted

    def opening(self) -> Iterator[Event]:
        yield from super().opening()
        yield "response.content_part.added", {**self._place(), "content_index": 0, "part": self._part()}

    def grow(self, text: str) -> Iterator[Event]:
        self._text += text
        yield self._delta("response.reasoning_text.delta", text, content_index=0)

    def _done(self) -> Iterator[Event]:
        place = {**self._place(), "content_index": 0}
        yield "response.reasoning_text.done", {**place, "text": self._text}
        yield "response.content_part.done", {**place, "part": self._part()}

    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = {"id": self.id, "type": "reasoning", "status": self.status, "summary": []}
        value["content"] = [self._part()] if self._text else []
        if self._with_encrypted:
            value["encrypted_content"] = encrypted(self._text)
        return value

    def _part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self._text}


class Message(Item):
    """Text, and refusals, for the user."""

    kind = "msg"

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self._parts: list[dict[str, Any]] = []

    def grow(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
        yield from self._part("output_text")
        part = self._parts[-1]
        part["text"] += text
        part["logprobs"] += logprobs
        yield self._delta(
            "response.output_text.delta",
            text,
            content_index=len(self._parts) - 1,
            logprobs=_without_bytes(logprobs),
        )

    def refuse(self, text: str) -> Iterator[Event]:
        yield from self._part("refusal")
        self._parts[-1]["refusal"] += text
        yield self._delta("response.refusal.delta", text, content_index=len(self._parts) - 1)

    def _part(self, kind: str) -> Iterator[Event]:
        """Begin a part of this kind, unless the last one is."""
        if self._parts and self._parts[-1]["type"] == kind:
            return
        yield from self._part_done()
        empty = {"type": kind, "text": "", "annotations": [], "logprobs": []}
        self._parts.append(empty if kind == "output_text" else {"type": kind, "refusal": ""})
        place = {**self._place(), "content_index": len(self._parts) - 1}
        yield "response.content_part.added", {**place, "part": _copy(self._parts[-1])}

    def _part_done(self) -> Iterator[Event]:
        if not self._parts:
            return
        part = _copy(self._parts[-1])
        place = {**self._place(), "content_index": len(self._parts) - 1}
        if part["type"] == "output_text":
            told = {"text": part["text"], "logprobs": _without_bytes(part["logprobs"])}
            yield "response.output_text.done", {**place, **told}
        else:
            yield "response.refusal.done", {**place, "refusal": part["refusal"]}
        yield "response.content_part.done", {**place, "part": part}

    def _done(self) -> Iterator[Event]:
        yield from self._part_done()

    def value(self) -> dict[str, Any]:
        content = [_copy(part) for part in self._parts]
        return {
            "id": self.id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": content,
        }


class Call(Item):
    """A call of a function."""

    kind = "fc"

    def __init__(self, *, call_id: str, name: str, **place: Any) -> None:
        super().__init__(**place)
        self._head = {"call_id": call_id, "name": name}
        self._arguments = ""

    def grow(self, arguments: str) -> Iterator[Event]:
        self._arguments += arguments
        yield self._delta("response.function_call_arguments.delta", arguments)

    def _done(self) -> Iterator[Event]:
        told = {"name": self._head["name"], "arguments": self._arguments}
        yield "response.function_call_arguments.done", {**self._place(), **told}

    def value(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            **self._head,
            "arguments": self._arguments,
        }


class CustomCall(Call):
    """A call of a custom tool, told at its end: its input lies within the arguments of a function."""

    kind = "ctc"

    def grow(self, arguments: str) -> Iterator[Event]:
        self._arguments += arguments
        yield from ()

    def _done(self) -> Iterator[Event]:
        given = custom_input(self._arguments)
        yield self._delta("response.custom_tool_call_input.delta", given)
        yield "response.custom_tool_call_input.done", {**self._place(), "input": given}

    def value(self) -> dict[str, Any]:
        given = "" if self.status == "in_progress" else custom_input(self._arguments)
        return {"id": self.id, "type": "custom_tool_call", **self._head, "input": given}


def _without_bytes(logprobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As events tell them."""
    return [
        {**_plain(item), "top_logprobs": [_plain(top) for top in item["top_logprobs"]]} for item in logprobs
    ]


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logprob": item["logprob"]}


def _copy(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part that does not grow any further."""
    return {name: list(value) if isinstance(value, list) else value for name, value in part.items()}
