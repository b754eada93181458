"""One request and its answer: what was received, what has been sent, and whether anybody is left.

An exchange is driven by one task. Three things may interrupt it: the client hangs up, nothing has moved for
too long, or somebody cancels it by its id; all cancel that task and leave the reason here.
"""

from __future__ import annotations

import asyncio
import os
import re
from enum import Enum, auto
from typing import Final
from urllib.parse import parse_qs

from ekiben.client_watch import Watch
from ekiben.clock import Clock
from ekiben.errors import EkibenError, InvalidRequest, for_clients
from ekiben.gateway.http.answers import OPENAI, Answer
from ekiben.gateway.http.asgi import Headers, Receive, Scope, Send
from ekiben.gateway.http.transport import DIRECT_BODY, DirectBody

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
VERSION_HEADER: Final = (b"openai-version", b"2020-10-01")
SSE_HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
LINGER_BYTES: Final = 16 * 2**20
"""So much is still taken in, and thrown away, after a request was refused for its size."""
SHORT_BYTES: Final = 64 * 1024
"""A refused request of at most this size does not cost its connection."""
CLIENT_CLOSED_REQUEST: Final = 499
"""What is logged and counted when the client left; nobody is there to receive it."""


class Moves(Enum):
    """Who has to move next, and so who is to blame when nobody does."""

    NOBODY = auto()
    BODY = auto()
    CLIENT = auto()
    REPLICA = auto()


class ClientGone(Exception):
    """The client hung up while its request was being read."""


class Exchange:
    """State of one request. `waits_for`, `moved_at` and `received_bytes` are read by the watchdog."""

    __slots__ = (
        "_clock",
        "_receive",
        "_resting",
        "_send",
        "_task",
        "_watch",
        "body_left",
        "complete",
        "direct",
        "ended_by",
        "error",
        "events",
        "failed_with",
        "first_byte_at",
        "gone",
        "headers",
        "id",
        "id_header",
        "idle",
        "manner",
        "method",
        "model",
        "moved_at",
        "received_bytes",
        "route",
        "scope",
        "started_at",
        "status",
        "waits_for",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, clock: Clock) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else b"req_%b" % os.urandom(12).hex().encode()
        self.id = request_id.decode("ascii")
        self.id_header = (b"x-request-id", request_id)
        self.route = "unmatched"
        self.manner = OPENAI
        self.model = ""
        """The catalog's name; empty when the request is for no model, or for an unknown one."""
        self.idle = False
        """Nobody waits for its answer: it takes what nobody else wants, however long that is."""
        self.status = 0
        """What was sent; 0: nothing yet."""
        self.error: EkibenError | None = None
        self.failed_with = 0
        """The status of an error that the replica told by itself."""
        self.events = False
        """The answer that was begun is a stream of events, so an error can still be told in it."""
        self.complete = False
        self.body_left = b"transfer-encoding" in self.headers or (
            self.headers.get(b"content-length", b"0") != b"0"
        )
        self.gone = False
        self.ended_by: EkibenError | None = None
        """Why it was ended while its client was still there."""
        self.waits_for = self._resting = Moves.NOBODY
        self.received_bytes = 0
        self.first_byte_at: float | None = None
        self.started_at = self.moved_at = clock.monotonic()
        self._clock = clock
        self.direct: DirectBody | None = scope.get("extensions", {}).get(DIRECT_BODY)
        """The body without detours; None with servers that have none."""
        self._receive = receive
        self._send = send
        self._task: asyncio.Task[object] | None = asyncio.current_task()
        self._watch: Watch | None = None

    @property
    def raw_path(self) -> str:
        """The path as it was sent, percent signs and all, without the query."""
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode("utf-8", "replace")
        if root := self.scope.get("root_path"):
            raw = raw.removeprefix(root.encode("latin-1", "replace"))
        return raw.partition(b"?")[0].decode("latin-1")

    @property
    def client_host(self) -> str:
        """The address of the other end of the connection. Forwarding headers are never believed."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    def header(self, name: bytes) -> str:
        """A header by its lower-case name, or an empty text."""
        return self.headers.get(name, b"").decode("latin-1")

    def query(self, name: str) -> str | None:
        """A parameter of the query that may be given once."""
        values = parse_qs(self.scope.get("query_string", b"").decode("latin-1")).get(name, [])
        if len(values) > 1:
            raise InvalidRequest(f"{name!r} is given {len(values)} times: send it once", param=name)
        return values[0] if values else None

    async def receive(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether there is more. Raises ClientGone."""
        self.waits_for = Moves.BODY
        message = await self._receive()
        self.waits_for = Moves.NOBODY
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        data: bytes = message.get("body", b"")
        self.received_bytes += len(data)
        self.body_left = message.get("more_body", False)
        return data, self.body_left

    def watch(self) -> None:
        """From a moment on, cancel the task as soon as the client hangs up. Only after the body was read."""
        if self._watch is None:
            self._watch = Watch(self._receive, self._left, name=f"watch {self.id}")

    def _left(self) -> None:
        if not self.complete:
            self.gone = True
            self._cancel()

    def end(self, error: EkibenError) -> None:
        """Cancel the task for that reason, of which the client is told. Idempotent."""
        if self.ended_by is None and not self.gone and not self.complete:
            self.ended_by = error
            self._cancel()

    @property
    def age_s(self) -> float:
        """Since its head was received."""
        return self._clock.monotonic() - self.started_at

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def interrupted(self) -> bool:
        """Whether a cancellation of the task comes from here."""
        return self.gone or self.ended_by is not None

    @property
    def outcome(self) -> int:
        """The status that counts: an error may come after a 200 was sent, or with nobody to receive it."""
        if self.gone:
            return CLIENT_CLOSED_REQUEST
        if self.error is not None:
            return self.error.status
        return self.failed_with or self.status

    def close(self) -> None:
        """The exchange is over; nothing of it stays behind."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._task = None

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers; request id and timing are added here."""
        now = self._clock.monotonic()
        self.status = status
        self.first_byte_at = self.moved_at = now
        elapsed_ms = b"%d" % ((now - self.started_at) * 1000)
        everything = [*headers, self.id_header, (b"openai-processing-ms", elapsed_ms), VERSION_HEADER]
        if self.manner.request_id_header is not None:
            everything.append((self.manner.request_id_header, self.id_header[1]))
        await self._send({"type": "http.response.start", "status": status, "headers": everything})

    async def start_events(self) -> None:
        """Begin a stream of events."""
        self.events = True
        await self.start(200, SSE_HEADERS)

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the body; waits while the client does not read."""
        self.waits_for = Moves.CLIENT
        self.moved_at = self._clock.monotonic()
        if not more:
            self.complete = True
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.waits_for = self._resting
        self.moved_at = self._clock.monotonic()

    @property
    def takes_at_once(self) -> bool:
        """Whether a piece of the body can be sent without waiting; not with every server."""
        return self.direct is not None and self.direct.open

    def write_at_once(self, data: bytes) -> None:
        """Send a piece of the body, some bytes at least. Only while `takes_at_once`."""
        assert self.direct is not None, "wrote at once where that cannot be"
        self.direct.write(data)
        self.moved_at = self._clock.monotonic()

    def look_again(self) -> None:
        """Whatever was sent by another process has moved it too."""
        if self.direct is not None and (ago_s := self.direct.sent_ago_s) is not None:
            self.moved_at = max(self.moved_at, self._clock.monotonic() - ago_s)

    def expect_replica(self) -> None:
        """The answer has begun: from here on a replica that falls silent is given up."""
        self.waits_for = self._resting = Moves.REPLICA
        self.moved_at = self._clock.monotonic()

    async def answer(self, answer: Answer) -> None:
        """Send a whole answer."""
        await self.start(answer.status, _headers(answer))
        await self.write(answer.body, more=False)

    async def fail(self, error: EkibenError) -> None:
        """Tell an error in the way that is still open: a status, an event, or a broken connection."""
        self.error = error
        if not self.route.startswith("/api/"):
            error = for_clients(error)
        if self.complete or self.gone or self.waits_for is Moves.CLIENT:
            return  # nobody reads, or a write to them was cut off
        if self.status:
            if self.events:
                await self.write(self.manner.error_event(error, request_id=self.id), more=False)
            return
        answer = self.manner.error_answer(error, request_id=self.id)
        if self.body_left:
            await self._refuse(answer)
        else:
            await self.answer(answer)
        # A body half sent cannot be taken back: the server closes a connection that is left like this,
        # and the client sees that it is cut short.

    async def _refuse(self, answer: Answer) -> None:
        """Answer while the client is still sending, and take in what it sends until it notices.

        Closing at once would reset the connection, and the client might never see the answer.
        """
        declared = self.headers.get(b"content-length", b"")
        patient = b"expect" not in self.headers
        short = patient and declared.isdigit() and int(declared) <= SHORT_BYTES
        await self.start(answer.status, _headers(answer) + ([] if short else [(b"connection", b"close")]))
        await self.write(answer.body)
        taken = 0
        while self.body_left and patient and taken < LINGER_BYTES:
            taken += len((await self.receive())[0])
        await self.write(b"", more=False)


def _headers(answer: Answer) -> Headers:
    return [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(answer.body)),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()),
    ]
