"""Hears the answer to a response on its way to the client, and keeps it before its end is passed on.

Bytes are never changed, and of a stream nothing is parsed but the last event: the one that holds the whole
response. It waits here until it is written down, so that what a client was told is never lost.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from ekiben.errors import EkibenError, ReplicaDied, envelope
from ekiben.responses import CONTEXT_HEADER, ID_HEADER, error_events, event

Keep: TypeAlias = Callable[[str, bytes], Awaitable[None]]
"""Write down a response, given its status and its JSON."""

_ENDS: Final = {
    b"event: response.completed\n": "completed",
    b"event: response.incomplete\n": "incomplete",
    b"event: response.failed\n": "failed",
}
_WITH_RESPONSE: Final = b'"response":'
"""In the few events that carry one; within a text its quotes would be escaped."""
_NUMBER: Final = re.compile(rb'"sequence_number": ?(\d+)')


class _LastEvent(msgspec.Struct):
    response: msgspec.Raw


class _Status(msgspec.Struct):
    status: str


class Recorder:
    """One answer. Also the way in which errors are told on it."""

    def __init__(
        self,
        response_id: str,
        *,
        blank: Callable[[], Mapping[str, Any]],
        keep: Keep | None,
        told: int = 0,
        context: int = 0,
    ) -> None:
        """`blank`: the response without output, for a stream that fails. `keep`: None to keep nothing.

        `told`: how many events the client has had before the first of the replica. `context`: how many
        items of earlier turns stand before those of the request.
        """
        self.header = f"{ID_HEADER}: {response_id}\r\n{CONTEXT_HEADER}: {context}".encode("ascii")
        self.ending = False
        """All of it has come, and it is being written down."""
        self.response: bytes | None = None
        """The response's JSON, once it is kept."""
        self._blank = blank
        self._keep = keep
        self._told = told
        self._last = b""
        self._final: bytearray | None = None
        self._status = ""

    # What the proxy calls

    def hear(self, events: bytes) -> bytes:
        """What of some whole events may be sent on."""
        if self._final is not None:
            self._final += events
            return b""
        at = -1 if events.find(_WITH_RESPONSE) < 0 else self._end(events)
        if at < 0:
            self._last = events
            return events
        self._last = events[:at] or self._last
        self._final = bytearray(events[at:])
        return events[:at]

    async def finish(self) -> bytes:
        """The end of the stream, once it is kept. Raises ReplicaDied when there is none."""
        if self._final is None:
            raise ReplicaDied("the model's process ended its answer before it was whole")
        data = bytes(self._final)
        if self._keep is not None:
            value = msgspec.json.decode(data[data.index(b"\ndata:") + 6 :], type=_LastEvent)
            await self._kept(self._keep, self._status, bytes(value.response))
        return data

    async def whole(self, body: bytes) -> None:
        """Keep an answer that is not streamed."""
        if self._keep is not None:
            await self._kept(self._keep, msgspec.json.decode(body, type=_Status).status, body)

    async def _kept(self, keep: Keep, status: str, response: bytes) -> None:
        self.ending = True
        await keep(status, response)
        self.response = response

    # How errors are told

    def body(self, error: EkibenError, *, request_id: str) -> bytes:
        """Of a whole answer."""
        return msgspec.json.encode(envelope(error), enc_hook=str)

    def event(self, body: bytes) -> bytes:
        """Such a body as the last events of a stream."""
        response = self._blank()
        events = []
        numbers = _NUMBER.findall(self._last)
        number = int(numbers[-1]) + 1 if numbers else self._told
        if number == 0:
            events.append(event("response.created", 0, {"response": response}))
            number = 1
        error = msgspec.json.decode(body)["error"]
        return b"".join([*events, *error_events(error, number=number, response=response)])

    def _end(self, events: bytes) -> int:
        """Where the last event of an answer begins; names of events never stand within their data."""
        for mark, status in _ENDS.items():
            at = events.find(mark)
            while at > 0 and events[at - 1 : at] != b"\n":
                at = events.find(mark, at + 1)
            if at >= 0:
                self._status = status
                return at
        return -1
