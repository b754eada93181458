"""What lies between uvicorn and the socket: answers in fewer packets, and bodies without detours.

uvicorn writes the head of an answer and its body apart. Sent together they cost one system call and one
packet instead of two, and wake the client once. Bytes are never changed, and none waits beyond the turn of
the loop it was written in.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

DIRECT_BODY: Final = "ekiben.direct_body"
"""Among the `extensions` of a scope: its `DirectBody`."""
_LAST_DATA_SENT: Final = struct.Struct("<44xI")
"""Of Linux's `struct tcp_info`: `tcpi_last_data_sent`, in milliseconds."""


class JoiningTransport(asyncio.Transport):
    """Wraps the transport of a connection. `expect_head` before each answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._expecting = False
        self._held = b""
        self._flush: asyncio.Handle | None = None
        self._lent: socket.socket | None = None
        # Asked often, and nothing is to be added.
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def expect_head(self) -> None:
        """What is written next waits for what comes after it, or for the end of this turn."""
        self._expecting = True

    def write(self, data: Any) -> None:
        if self._held:
            self._transport.writelines((self._take(), data))
        elif self._expecting:
            self._expecting = False
            self._held = data
            self._flush = self._loop.call_soon(self._send)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._take()
        self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def lend(self) -> socket.socket | None:
        """The client's connection, for somebody else to write to, until `take_back`; None: not now.

        Nobody else may lend it meanwhile, and what is written here goes out at once, among the other's.
        """
        if self._held or self._transport.get_write_buffer_size() or self._transport.is_closing():
            return None
        if self._lent is None:
            own = self._transport.get_extra_info("socket")
            if own is None or own.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            self._lent = socket.socket(fileno=os.dup(own.fileno()))
        return self._lent

    def take_back(self) -> None:
        """The other has let go of it."""
        if self._lent is not None:
            self._lent.close()
            self._lent = None

    @property
    def lent(self) -> socket.socket | None:
        """What was lent and not taken back."""
        return self._lent

    def disconnected(self) -> None:
        """The connection was closed here; whoever has it still finds it closed as well."""
        if self._lent is not None:
            with suppress(OSError):
                self._lent.shutdown(socket.SHUT_RDWR)
            self.take_back()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._send()
        self._transport.set_protocol(protocol)

    def _send(self) -> None:
        if self._held:
            self._transport.write(self._take())

    def _take(self) -> bytes:
        held, self._held = self._held, b""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        return held


class DirectBody:
    """Sends pieces of a body from within a callback, where nobody can wait.

    An ASGI server makes a sender wait for a slow client, so it needs a task that is woken for each piece.
    That costs more than the piece itself, when the piece is a token.
    """

    def __init__(self, cycle: RequestResponseCycle, joining: JoiningTransport) -> None:
        self._cycle = cycle
        self._joining = joining

    @property
    def open(self) -> bool:
        """Whether the head was sent, the client reads as fast as it is written to, and nothing has ended."""
        cycle = self._cycle
        return (
            cycle.response_started
            and cycle.chunked_encoding is True
            and not cycle.flow.write_paused
            and not cycle.disconnected
            and not cycle.response_complete
        )

    def write(self, data: bytes) -> None:
        """Only while it is open; some bytes at least."""
        self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def lend(self) -> socket.socket | None:
        """The connection, for another process to send pieces of the body; None: not now. Only while open."""
        return self._joining.lend()

    def take_back(self) -> None:
        """The other process has sent its last piece, and let go of the connection."""
        self._joining.take_back()

    def give_up(self) -> None:
        """The other process may send more, whatever it is told: nothing may follow this answer."""
        if self._joining.lent is not None:
            self._cycle.keep_alive = False

    @property
    def sent_ago_s(self) -> float | None:
        """When somebody it is lent to has sent something, or this process has; None: it is not lent."""
        lent = self._joining.lent
        if lent is None:
            return None
        told = lent.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_SENT.size)
        (milliseconds,) = _LAST_DATA_SENT.unpack(told)
        return float(milliseconds) / 1000
