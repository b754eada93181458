"""Server-sent events on their way through: whole events only, and a memory of how the stream ended.

A replica that dies in the middle of an event must not leave half an event with the client, whose parser
would choke on it before it sees the error that follows. Bytes are never changed.
"""

from __future__ import annotations

import re
from typing import Final

HOLD_BYTES: Final = 64 * 1024
"""A larger event is let through in pieces rather than kept."""
_TAIL_BYTES: Final = 32
_FAILED: Final = re.compile(rb'data: ?\{\s*"error"')
_DONE: Final = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\](?:\r\n|\n|\r)*\Z")
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EventStream:
    """Feed it the bytes of a stream; what it returns may be sent on."""

    __slots__ = ("_held", "_last", "_tail", "open")

    def __init__(self) -> None:
        self._held = bytearray()
        self._tail = b""
        self._last = b""
        self.open = False
        """A part of an event has been sent on without its end."""

    def feed(self, data: bytes) -> bytes:
        """The bytes up to the end of the last whole event; the rest is held."""
        if not self._held and data.endswith(b"\n\n"):
            return self._pass(data, whole=True)
        # An end may lie across the border of two pieces.
        start = max(0, len(self._held) - 3)
        self._held += data
        cut = max(
            self._held.rfind(end, start) + len(end) if end in self._held[start:] else 0 for end in _ENDS
        )
        if cut:
            ready = bytes(self._held[:cut])
            del self._held[:cut]
            return self._pass(ready, whole=True)
        if len(self._held) > HOLD_BYTES:
            return self.finish()
        return b""

    def finish(self) -> bytes:
        """What is held, whole or not: the stream ended by itself, or the event is too large to hold."""
        if not self._held:
            return b""
        held = bytes(self._held)
        self._held.clear()
        return self._pass(held, whole=False)

    @property
    def whole(self) -> bool:
        """Whether all that was fed is sent on, and ends with the end of an event."""
        return not self._held and not self.open

    @property
    def done(self) -> bool:
        """Whether what was sent on ends with `[DONE]`."""
        return _DONE.search(self._tail) is not None

    @property
    def failed(self) -> bool:
        """Whether what was sent on ends with an event that tells an error as OpenAI does."""
        last = self._last.rstrip(b"\r\n")
        start = max(0, *(last.rfind(mark) for mark in _ENDS))
        return _FAILED.match(last[start:].lstrip(b"\r\n")) is not None

    def _pass(self, data: bytes, *, whole: bool) -> bytes:
        size = len(data)
        self._last = data
        self._tail = data[-_TAIL_BYTES:] if size >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]
        self.open = not whole
        return data
