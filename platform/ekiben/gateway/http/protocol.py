"""uvicorn's HTTP protocol with bounds on what may come before a request is known, and our own error body.

uvicorn itself waits for ever for the head of a request and takes headers without end.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ekiben.errors import InvalidRequest
from ekiben.gateway.http.answers import OPENAI
from ekiben.gateway.http.transport import DIRECT_BODY, DirectBody, JoiningTransport

HEAD_TIMEOUT_S: Final = 30.0
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200
PROBES_S: Final = (0.05, 0.5)
"""Pauses between the questions whether a client that has said its last word still listens; the last stays."""
INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """Give it to `uvicorn.Config(http=…)`."""

    head_timeout_s = HEAD_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._plain = transport
        self._joining = JoiningTransport(transport, self.loop)
        super().connection_made(self._joining)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._joining.disconnected()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays: one that ended its half after a whole request may be listening.

        The network does not tell that from a client that has left, until something is written. Every
        client of HTTP/1.1 must pass over interim answers, so one of these is, until the answer begins. Who
        ends its half within an answer has left.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.response_started or self.pipeline:
            return False
        if cycle.scope["http_version"] != "1.1":
            return False
        cycle.keep_alive = False
        self._probe(0)
        return True

    def data_received(self, data: bytes) -> None:
        # The parser tells of a header, or of a line between chunks, when it is whole: one without end is
        # seen here only.
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response("")
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is None and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_timer is not None:  # what trails a body is not a header
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_arrived()
        if len(self.headers) > MAX_HEADERS or self._head_is_too_large():
            raise ValueError("the head of the request is too large")
        if self.parser.should_upgrade() and not self._should_upgrade() and self._has_body():
            raise ValueError("the parser would take the body for words of another protocol")
        self._head_bytes = 0
        self._joining.expect_head()
        super().on_headers_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.scope is self.scope:  # its task has not begun
            cycle.keep_alive = cycle.keep_alive and not self.parser.should_upgrade()
            self.scope["extensions"] = {DIRECT_BODY: DirectBody(cycle, self._joining)}  # type: ignore[dict-item]

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _head_is_too_large(self) -> bool:
        if self._head_bytes <= MAX_HEAD_BYTES:
            return False
        # What came may be body for the most part.
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return size > MAX_HEAD_BYTES

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all gets the envelope too."""
        self._head_arrived()
        body = OPENAI.errors.body(InvalidRequest("this is not a valid HTTP request"), request_id="")
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()

    def _probe(self, count: int) -> None:
        """Writing to a client that has left breaks the connection, the second time at the latest."""
        if self.cycle.response_started or self._plain.is_closing():
            return
        self._plain.write(INTERIM)
        pause_s = PROBES_S[min(count, len(PROBES_S) - 1)]
        self._probe_timer = self.loop.call_later(pause_s, self._probe, count + 1)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_overdue)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_overdue(self) -> None:
        self._head_timer = None
        self.transport.close()
