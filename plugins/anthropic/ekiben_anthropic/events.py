"""The chunks of a chat completion as the events of a message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ekiben_anthropic.answer import ending, opening, thought_of, usage_of


class MessageEvents:
    """One stream: a message of blocks, of which one is open at a time."""

    def __init__(self, *, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._started = False
        self._index = -1
        self._open: tuple[str, int] | None = None
        """The kind of the open block, and the number of its call."""
        self._end: tuple[str, str | None] = ("end_turn", None)
        self._usage: Mapping[str, Any] = {}

    def begin(self) -> bytes:
        """Nothing: the message begins with what the first chunk tells."""
        return b""

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        events = [] if self._started else [self._start(chunk)]
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := thought_of(delta):
                events += self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                events.append(self._delta({"type": "thinking_delta", "thinking": thought}))
            if text := delta.get("content") or delta.get("refusal"):
                events += self._block("text", {"type": "text", "text": ""})
                events.append(self._delta({"type": "text_delta", "text": text}))
            for call in delta.get("tool_calls") or ():
                events += self._call(call)
            if choice.get("finish_reason"):
                self._end = ending(choice, self._stops)
        return b"".join(events)

    def finish(self) -> bytes:
        events = [] if self._started else [self._start({})]
        events += self._close()
        reason, sequence = self._end
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        events.append(_event("message_delta", delta=delta, usage=usage_of(self._usage)))
        return b"".join([*events, _event("message_stop")])

    def _start(self, chunk: Mapping[str, Any]) -> bytes:
        self._started = True
        return _event("message_start", message=opening(chunk))

    def _call(self, call: Mapping[str, Any]) -> list[bytes]:
        function = call.get("function") or {}
        number = call.get("index", 0)
        events: list[bytes] = []
        if self._open != ("tool_use", number):
            block = {"type": "tool_use", "id": call.get("id"), "name": function.get("name")}
            events = self._block("tool_use", block | {"input": {}}, number=number)
        if arguments := function.get("arguments"):
            events.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
        return events

    def _block(self, kind: str, block: Mapping[str, Any], *, number: int = 0) -> list[bytes]:
        """Open a block, unless it is the open one."""
        if self._open == (kind, number):
            return []
        events = self._close()
        self._index += 1
        self._open = (kind, number)
        return [*events, _event("content_block_start", index=self._index, content_block=block)]

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        return [_event("content_block_stop", index=self._index)]

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()
