"""Streams of events that go straight to the client, over the client's own connection.

The gateway passes the connection of a client whose stream is under way (`ekiben.gateway.relay.handoff`),
and says how much of the answer it has passed on. If that is all that was sent, the events that follow go
out here, each with one write; the gateway has no part in them. What ends a stream, and all that a slow
client makes wait, goes through the gateway as before.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from ekiben.runtime.http import Message, Receive, Scope, Send
from ekiben.runtime.protocol import HANDOFF_HEADER, HANDOFF_SOCKET, PASSED_BYTES, Passed

logger = logging.getLogger(__name__)

MAX_EVENT_BYTES: Final = 4 * 1024
MAX_PENDING_BYTES: Final = 8 * 1024
"""With no more than this on its way to the client, the kernel takes an event whole: a tenth of what it
allows a new connection."""
_INT: Final = struct.Struct("i")
_DONE: Final = b"data: [DONE]\n\n"
_ERRORS: Final = (b'data: {"error"', b"event: error")
"""How events begin that the gateway must see, besides."""


class HandedOff:
    """One stream. Its events are offered to `write`; of what is relayed instead, `relayed` is told."""

    def __init__(self) -> None:
        self._client: socket.socket | None = None
        self._relayed_bytes = 0

    def take(self, client: socket.socket, *, passed_bytes: int) -> None:
        """The client's connection, unless some of the answer is still on its way through the gateway."""
        if self._client is None and passed_bytes == self._relayed_bytes:
            self._client = client
        else:
            client.close()

    def relayed(self, size: int) -> None:
        """So many bytes were given to the gateway."""
        self._relayed_bytes += size

    async def write(self, event: bytes) -> bool:
        """Whether the client has it. If not, this and all that follows is to be relayed for the time being.

        Waits only if the kernel takes a part of an event, for which it would have to be short of memory.
        """
        client = self._client
        if client is None:
            return False
        plain = event.endswith(b"\n\n") and not event.endswith(_DONE) and not event.startswith(_ERRORS)
        if not plain or len(event) > MAX_EVENT_BYTES:
            self.close()
            return False
        if _pending_bytes(client) > MAX_PENDING_BYTES:  # the client is slow: the gateway knows how to wait
            self.close()
            return False
        framed = b"%x\r\n%b\r\n" % (len(event), event)
        try:
            sent = client.send(framed, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if sent < len(framed):
                await asyncio.get_running_loop().sock_sendall(client, framed[sent:])
                self.close()
        except OSError:  # the client is gone, of which the gateway hears as well
            self.close()
            return False
        return True

    def close(self) -> None:
        """Leave the client to the gateway."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _pending_bytes(client: socket.socket) -> int:
    """What the other end has not acknowledged yet."""
    (size,) = _INT.unpack(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(_INT.size)))
    return int(size)


class Handoffs:
    """Where the gateway leaves the connections of clients. `begin` and `close` in the event loop."""

    def __init__(self) -> None:
        self._streams: dict[bytes, HandedOff] = {}
        self._socket: socket.socket | None = None

    def begin(self, replica_socket: Path) -> None:
        """Listen beside the replica's own socket, which its user alone can reach."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)
        try:
            listening.bind(str(replica_socket.with_name(HANDOFF_SOCKET)))
        except OSError as error:
            listening.close()
            logger.warning("all events go through the gateway: %s", error)
            return
        finally:
            os.umask(mask)
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._receive)

    def open(self, token: bytes) -> HandedOff:
        """A stream by the gateway's name for it, until `end`."""
        stream = self._streams[token] = HandedOff()
        return stream

    def end(self, token: bytes) -> None:
        """The answer has ended, in one way or another."""
        self._streams.pop(token).close()

    def close(self) -> None:
        """Take no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _receive(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._socket, PASSED_BYTES, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            for descriptor in descriptors:
                client = socket.socket(fileno=descriptor)
                try:
                    passed = Passed.parse(data)
                    stream = self._streams[passed.token]
                except (ValueError, KeyError):  # it has ended meanwhile
                    client.close()
                else:
                    stream.take(client, passed_bytes=passed.size_bytes)


class HandingOff:
    """An application whose streams go straight to clients, where the gateway lets them."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], handoffs: Handoffs) -> None:
        self._app = app
        self._handoffs = handoffs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = next((value for name, value in scope.get("headers", ()) if name == HANDOFF_HEADER), None)
        if token is None:
            await self._app(scope, receive, send)
            return
        stream = self._handoffs.open(token)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.body":
                body = message.get("body", b"")
                if not message.get("more_body", False):
                    stream.close()
                elif await stream.write(body):
                    return
                stream.relayed(len(body))
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            self._handoffs.end(token)
