"""Connections to replicas: HTTP/1.1 over a unix or TCP socket, kept for the next request.

A client of a few dozen microseconds a request, which also knows what a general one does not tell: whether
any byte of an answer has come, and whether an answer that ended was whole. Bodies are never decoded.
"""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, cast

import httptools

from ekiben.clock import Clock
from ekiben.fleet.types import Address
from ekiben.gateway.http.asgi import Headers
from ekiben.gateway.http.body import Body
from ekiben.runtime.protocol import HANDOFF_SOCKET, Passed

CONNECT_TIMEOUT_S: Final = 5.0
KEEP_IDLE_S: Final = 30.0
"""Shorter than what replicas keep, so that we are the one who closes."""
BUFFER_BYTES: Final = 256 * 1024
"""Read ahead of the client at most about so much."""
MAX_HEADER_BYTES: Final = 64 * 1024


AtOnce: TypeAlias = Callable[[bytes], bool]
"""Is offered bytes, and says whether it has taken them. Must not raise."""


class Unreachable(Exception):
    """Nothing listens there; the request was not delivered."""


class UpstreamLost(Exception):
    """The connection ended, or spoke nonsense, before the answer was whole."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time. `request`, `response`, then `read` until `finished`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.answered = False
        """A byte of the answer has come."""
        self.finished = False
        """The answer is whole; some of it may not have been read yet."""
        self.idle_since = 0.0
        self._head = False
        self._lost: str | None = None
        self._header_bytes = 0
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._reading_paused = False
        self._writing_paused = False
        self._reusable = True
        self._busy = False
        self._until_close = False
        self._waiter: asyncio.Future[None] | None = None
        self._at_once: AtOnce | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)

    # What the proxy calls

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._lost is None and self._reusable and not self._busy

    @property
    def at_end(self) -> bool:
        """Whether all of the answer has been read."""
        return self.finished and not self._chunks

    @property
    def _over(self) -> bool:
        """Whether nothing more will come."""
        return self.finished or self._lost is not None

    async def request(self, head: bytes, body: Body) -> None:
        """Send a request. Stops early, without an error, when an answer comes before all of it was sent."""
        self.status = 0
        self.headers = []
        self.answered = self.finished = self._head = self._until_close = False
        self._header_bytes = 0
        self._busy = True
        transport = self._transport
        if self._lost is not None or transport is None:
            raise UpstreamLost(self._lost or "the connection was closed")
        memory = body.in_memory
        if memory is not None:
            transport.write(head + memory)
            return
        transport.write(head)
        for chunk in body.chunks():
            transport.write(chunk)
            while self._writing_paused and not self.answered and self._lost is None:
                await self._wait()
            if self.answered or self._lost is not None:
                self._reusable = False
                return

    async def response(self) -> None:
        """Wait for status and headers. Raises UpstreamLost."""
        while not self._head:
            if self._lost is not None:
                raise UpstreamLost(self._lost)
            await self._wait()

    async def read(self, at_once: AtOnce | None = None) -> bytes:
        """What has come of the body, or b"" at its end. Raises UpstreamLost when it is cut short.

        `at_once` is offered whatever comes while this waits, and is not returned what it takes.
        """
        self._at_once = at_once
        try:
            while not self._chunks:
                if self.finished:
                    return b""
                if self._lost is not None:
                    raise UpstreamLost(self._lost)
                await self._wait()
        finally:
            self._at_once = None
        return self._collect()

    def _collect(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def release(self) -> None:
        """The answer was read; the connection may be used again."""
        self._busy = False

    def abort(self) -> None:
        """Drop the connection now: the replica sees it and cancels its work."""
        self._reusable = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy or self.finished:
            self._break("bytes that belong to no answer")
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"an answer that is not HTTP ({type(error).__name__})")
        except httptools.HttpParserUpgrade:
            self._break("an upgrade that nobody asked for")
        if not self._passed_at_once() or self._over:
            self._wake()

    def _passed_at_once(self) -> bool:
        """Whether all that has come is on its way, and nobody need be woken for it."""
        if self._at_once is None or not self._chunks:
            return False
        came = self._collect()
        if self._at_once(came):
            return True
        self._at_once = None  # the one who reads is woken, and goes on with what is kept
        self._chunks.append(came)
        self._buffered = len(came)
        return False

    def _break(self, what: str) -> None:
        self._lost = f"the replica sent {what}"
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._until_close and exc is None and self._lost is None:
            self.finished = True
        if self._lost is None:
            self._lost = "the replica closed the connection" if exc is None else "the connection broke"
        self._reusable = False
        self._transport = None
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("the headers are too large")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            raise ValueError("interim answers are not expected")
        names = {name for name, _ in self.headers}
        framed = b"content-length" in names or b"transfer-encoding" in names
        self._until_close = not framed and self.status not in (204, 304)
        self._reusable = self._reusable and self._parser.should_keep_alive() and not self._until_close
        self._head = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > BUFFER_BYTES and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._until_close:
            self.finished = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Upstreams:
    """The connections that wait for their next request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._idle: dict[Address, list[Connection]] = {}
        self._post = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def take(self, address: Address) -> Connection | None:
        """One that has served before, if there is one."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self, address: Address) -> Connection:
        """A new one. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if address.scheme == "unix":
                    _, connection = await loop.create_unix_connection(Connection, address.location)
                else:
                    host, _, port = address.location.rpartition(":")
                    _, connection = await loop.create_connection(Connection, host.strip("[]"), int(port))
        except (OSError, TimeoutError) as error:
            raise Unreachable(str(error)) from None
        return connection

    def hand_over(self, address: Address, client: socket.socket, passed: Passed) -> bool:
        """Give a client's connection to the replica at a unix socket. False: it does not take any now."""
        to = Path(address.location).with_name(HANDOFF_SOCKET)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [client.fileno()]))
        try:
            self._post.sendmsg([bytes(passed)], [rights], 0, str(to))
        except OSError:
            return False
        return True

    def give_back(self, address: Address, connection: Connection) -> None:
        """Keep it for the next request if it can take one, otherwise drop it."""
        if not connection.at_end:
            connection.abort()
            return
        connection.release()
        if not connection.usable:
            connection.abort()
            return
        connection.idle_since = self._clock.monotonic()
        self._idle.setdefault(address, []).append(connection)

    def sweep(self) -> None:
        """Drop what was idle for too long, and what the other side has closed."""
        oldest = self._clock.monotonic() - KEEP_IDLE_S
        for address, idle in list(self._idle.items()):
            kept = [c for c in idle if c.usable and c.idle_since >= oldest]
            for connection in set(idle).difference(kept):
                connection.abort()
            if kept:
                self._idle[address] = kept
            else:
                del self._idle[address]

    def close(self) -> None:
        """Drop them all."""
        self._post.close()
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()
