"""What an engine answers to the chat, as a response and its events.

Whole answers take the same way as streamed ones: they are a stream of one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.errors import EkibenError, envelope
from ekiben.responses import OPENING_EVENTS, error_events, event
from ekiben.runtime.text.responses.output import Call, CustomCall, Event, Item, Message, Reasoning
from ekiben.runtime.text.responses.request import Translation

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class AnswerWriter:
    """One response: `begin`, `feed` with each object of the chat, `finish`; or `whole` alone."""

    def __init__(
        self, response: dict[str, Any], translation: Translation, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`response`: in progress, with nothing generated yet."""
        self._response = response
        self._translation = translation
        self._clock = clock
        self._number = OPENING_EVENTS if response["background"] else 0
        self._items: list[Item] = []
        self._open: list[Item] = []
        self._calls: dict[int, Call] = {}
        self._reason = "stop"
        self._usage: Mapping[str, Any] | None = None

    def begin(self) -> bytes:
        """The first events, of which the platform tells those of a response in the background itself."""
        kinds = ("in_progress",) if self._response["background"] else ("created", "in_progress")
        return self._told([(f"response.{kind}", {"response": self._response}) for kind in kinds])

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """The events of a `chat.completion.chunk`; empty when there is nothing to tell."""
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        return b"".join(self._told(self._grow(choice)) for choice in chunk["choices"])

    def finish(self) -> bytes:
        """The last events."""
        told = b"" if self._items else self._told(self._write("", ()))
        reason = _INCOMPLETE.get(self._reason)
        told += self._told(self._close("completed" if reason is None else "incomplete"))
        response = self._response
        response["output"] = [item.value() for item in self._items]
        if self._usage is not None:
            response["usage"] = _usage(self._usage)
        if reason is None:
            response |= {"status": "completed", "completed_at": int(self._clock.now().timestamp())}
        else:
            response |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
        return told + self._told([(f"response.{response['status']}", {"response": response})])

    def fail(self, error: EkibenError) -> bytes:
        """The last events of an answer that broke off."""
        told = self._told(self._close("incomplete"))
        self._response["output"] = [item.value() for item in self._items]
        events = error_events(envelope(error)["error"], number=self._number, response=self._response)
        return told + b"".join(events)

    def whole(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """The response to a `chat.completion`."""
        choices = [{**choice, "delta": choice["message"]} for choice in completion["choices"]]
        self.feed({**completion, "choices": choices})
        self.finish()
        return self._response

    def _told(self, events: Iterable[Event]) -> bytes:
        told = bytearray()
        for kind, fields in events:
            told += event(kind, self._number, fields)
            self._number += 1
        return bytes(told)

    def _grow(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            yield from self._think(thought)
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        text = delta.get("content")
        if text or (text is not None and logprobs):
            yield from self._write(text, [_logprob(item) for item in logprobs])
        if refusal := delta.get("refusal"):
            message, opening = self._message()
            yield from opening
            yield from message.refuse(refusal)
        for position, call in enumerate(delta.get("tool_calls") or ()):
            yield from self._call(call.get("index", position), call)
        if choice.get("finish_reason"):
            self._reason = choice["finish_reason"]

    def _think(self, text: str) -> Iterator[Event]:
        item = self._open[-1] if self._open else None
        if not isinstance(item, Reasoning):
            item = Reasoning(with_encrypted=self._translation.with_encrypted, **self._place())
            yield from self._add(item)
        yield from item.grow(text)

    def _write(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
        message, opening = self._message()
        yield from opening
        yield from message.grow(text, logprobs if self._translation.with_logprobs else ())

    def _message(self) -> tuple[Message, Iterator[Event]]:
        """The message under way, and the events that open it where it is new."""
        item = self._open[-1] if self._open else None
        if isinstance(item, Message):
            return item, iter(())
        item = Message(**self._place())
        return item, self._add(item)

    def _call(self, index: int, delta: Mapping[str, Any]) -> Iterator[Event]:
        """Of one call among several, which may be written side by side."""
        function = delta.get("function") or {}
        item = self._calls.get(index)
        if item is None:
            name = function.get("name") or ""
            make = CustomCall if name in self._translation.custom_tools else Call
            item = make(call_id=delta.get("id") or "", name=name, **self._place())
            self._calls[index] = item
            yield from self._add(item)
        if arguments := function.get("arguments"):
            yield from item.grow(arguments)

    def _add(self, item: Item) -> Iterator[Event]:
        if not isinstance(item, Call) or not all(isinstance(other, Call) for other in self._open):
            yield from self._close("completed")
        self._items.append(item)
        self._open.append(item)
        yield from item.opening()

    def _close(self, status: str) -> Iterator[Event]:
        for item in self._open:
            yield from item.closing(status)
        self._open.clear()

    def _place(self) -> dict[str, Any]:
        return {
            "response_id": self._response["id"],
            "index": len(self._items),
            "obfuscated": self._translation.obfuscated,
        }


def _logprob(item: Mapping[str, Any]) -> dict[str, Any]:
    return {**_token(item), "top_logprobs": [_token(top) for top in item.get("top_logprobs") or ()]}


def _token(item: Mapping[str, Any]) -> dict[str, Any]:
    given = item.get("bytes")
    return {
        "token": item["token"],
        "bytes": list(item["token"].encode()) if given is None else given,
        "logprob": item["logprob"],
    }


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    read = usage.get("prompt_tokens_details") or {}
    written = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": read.get("cached_tokens") or 0,
            "cache_write_tokens": read.get("cache_write_tokens") or 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": usage["total_tokens"],
    }
