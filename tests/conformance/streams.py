"""Whether a stream of events keeps the rules: framing, order, usage, its end, its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tests.conformance.envelopes import envelope_problems
from tests.conformance.shapes import problems_of
from tests.conformance.surface import Framing, Row

DONE: Final = "[DONE]"


@dataclass(frozen=True, slots=True)
class Event:
    name: str | None
    data: str


def events_of(raw: bytes) -> list[Event]:
    """The events that are complete. Comments are not events; a name without data is one."""
    events = []
    blocks = raw.replace(b"\r\n", b"\n").decode().split("\n\n")
    for block in blocks[:-1]:
        fields = [line.partition(":") for line in block.split("\n") if line and not line.startswith(":")]
        if fields:
            data = [value.removeprefix(" ") for name, _, value in fields if name == "data"]
            names = [value.removeprefix(" ") for name, _, value in fields if name == "event"]
            events.append(Event(names[0] if names else None, "\n".join(data)))
    return events


def stream_problems(row: Row, asked: dict[str, Any], raw: bytes, *, whole: bool) -> list[str]:
    """`whole`: the server ended it, and not the client."""
    assert row.event is not None
    events = events_of(raw)
    try:
        objects = [json.loads(event.data) for event in events if event.data != DONE]
    except ValueError as error:
        return [f"an event is not JSON: {error}"]
    found = [problem for value in objects for problem in _event_problems(row, value)]
    if row.framing is Framing.CHUNKS:
        return [*found, *_chunk_problems(asked, events, objects, whole=whole)]
    return [*found, *_typed_problems(row, events, objects, whole=whole)]


def _event_problems(row: Row, value: Any) -> list[str]:
    if isinstance(value, dict) and value.get("error") and "choices" not in value:
        return envelope_problems(value, row.dialect)
    if row.dialect == "anthropic" and value.get("type") in ("ping", "error"):
        return []
    assert row.event is not None
    return problems_of(_completed(row, value), row.event)


def _completed(row: Row, value: dict[str, Any]) -> dict[str, Any]:
    """OpenAI publishes one type for whole completions and their chunks, which have nulls in addition."""
    if row.path != "/v1/completions":
        return value
    choices = [
        choice | {"finish_reason": "stop"} if choice.get("finish_reason") is None else choice
        for choice in value.get("choices", ())
    ]
    return {k: v for k, v in value.items() if k != "usage" or v is not None} | {"choices": choices}


def _chunk_problems(
    asked: dict[str, Any], events: list[Event], objects: list[dict[str, Any]], *, whole: bool
) -> Iterator[str]:
    if any(event.name is not None for event in events):
        yield "an event has a name"
    done = [event.data == DONE for event in events]
    failed = [bool(value.get("error")) for value in objects]
    if sum(done) > 1 or (any(done) and not done[-1]):
        yield "[DONE] is not the last event"
    if any(failed) and (any(done) or not failed[-1]):
        yield "something follows an error"
    if whole and not any(done) and not any(failed):
        yield "it ended without [DONE] and without an error"
    chunks = [value for value in objects if not value.get("error")]
    for name in ("id", "object", "model"):
        if len({value.get(name) for value in chunks}) > 1:
            yield f"{name!r} changes in mid-stream"
    yield from _usage_problems(asked, chunks, ended=any(done))
    yield from _choice_problems(chunks, ended=any(done))


def _usage_problems(asked: dict[str, Any], chunks: list[dict[str, Any]], *, ended: bool) -> Iterator[str]:
    with_usage = [bool(chunk.get("usage")) for chunk in chunks]
    empty = [not chunk.get("choices") for chunk in chunks]
    if not (asked.get("stream_options") or {}).get("include_usage"):
        if any(with_usage) or any("usage" in chunk for chunk in chunks):
            yield "usage that nobody asked for"
        if any(empty):
            yield "a chunk without choices"
        return
    if any("usage" not in chunk for chunk in chunks):
        yield "a chunk without 'usage', though it was asked for"
    if with_usage != empty or any(with_usage[:-1]) or (ended and with_usage[-1:] != [True]):
        yield "the usage is not in one last chunk without choices"


def _choice_problems(chunks: list[dict[str, Any]], *, ended: bool) -> Iterator[str]:
    finished: set[int] = set()
    begun: set[int] = set()
    for choice in (choice for chunk in chunks for choice in chunk.get("choices", ())):
        index = choice["index"]
        if index in finished:
            yield f"choice {index} goes on after its finish_reason"
        if "delta" in choice and index not in begun and choice["delta"].get("role") != "assistant":
            yield f"choice {index} does not begin with its role"
        begun.add(index)
        if choice.get("finish_reason") is not None:
            finished.add(index)
    if ended and begun != finished:
        yield f"choices {sorted(begun - finished)} end without a finish_reason"


def _typed_problems(
    row: Row, events: list[Event], objects: list[dict[str, Any]], *, whole: bool
) -> Iterator[str]:
    types = [value.get("type", "error" if value.get("error") else None) for value in objects]
    failed = ["error" in (kind, *value) for kind, value in zip(types, objects, strict=True)]
    if row.framing is Framing.NAMED and any(
        event.name != kind for event, kind in zip(events, types, strict=False)
    ):
        yield "an event's name is not its type"
    if any(event.data == DONE for event in events[:-1]):
        yield "[DONE] is not the last event"
    if whole and not (types and (types[-1] in row.last or failed[-1])):
        yield f"its last event is {types[-1:]}"
    told = types[:-2] if types[-2:] == ["error", "response.failed"] else types[:-1]
    if any(kind in row.last for kind in told) or any(failed[: len(told)]):
        yield "something follows its last event"
    numbers = [value["sequence_number"] for value in objects if "sequence_number" in value]
    if any(after != before + 1 for before, after in pairwise(numbers)):
        yield f"sequence numbers with gaps: {numbers}"
    if row.path == "/v1/responses" and len(numbers) != len(objects):
        yield "an event without a sequence_number"
