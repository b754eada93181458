"""Sends a request to a replica and its answer back, byte for byte, under a lease that is always returned.

A request is sent again in two cases only, and never once a byte of an answer has come: a kept connection
turned out to be closed, or nothing listened at the replica's address any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ekiben.clock import Clock
from ekiben.errors import EngineError, ReplicaDied
from ekiben.fleet.types import Address, FleetPort, Lease, Prefix
from ekiben.gateway.http.body import Body
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.pictures import HEADER as PICTURES_HEADER
from ekiben.gateway.pictures import Pictures
from ekiben.gateway.relay.event_stream import EventStream
from ekiben.gateway.relay.handoff import Handoff
from ekiben.gateway.relay.heartbeat import Heartbeat
from ekiben.gateway.relay.target import Target
from ekiben.gateway.relay.upstream import Connection, Unreachable, UpstreamLost, Upstreams
from ekiben.settings import Settings
from ekiben.telemetry.metrics import Metrics

FORWARDED: Final = (
    b"content-type",
    b"accept",
    b"user-agent",
    b"traceparent",
    b"tracestate",
    b"x-stainless-read-timeout",
)
"""What a replica is told of the client's headers. Keys, cookies and addresses are not its business."""
RETURNED: Final = frozenset(
    {b"content-type", b"content-length", b"content-disposition", b"retry-after", b"x-should-retry"}
)
PATIENCE_HEADERS: Final = (b"x-stainless-read-timeout", b"x-stainless-timeout")
"""How the SDKs tell after how many seconds they give up: until the next byte, or until the head."""
EVENT_STREAM: Final = b"text/event-stream"
MAX_ERROR_BYTES: Final = 2**20
IDLE_WAIT_S: Final = 7 * 24 * 3600.0
"""Longer than anybody lets idle work wait: who began it ends it."""


class Listener(Protocol):
    """Hears an answer on its way, and may hold back its end for a while."""

    @property
    def header(self) -> bytes:
        """A line of the request's head, for the replica."""

    def hear(self, events: bytes) -> bytes:
        """What of some whole events may be sent on now."""

    async def finish(self) -> bytes:
        """The rest of a stream that has ended. Raises ReplicaDied when it was not whole."""

    async def whole(self, body: bytes) -> None:
        """An answer that is no stream, before it is sent on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request, ready to be sent on."""

    path: str
    target: Target
    body: Body
    ends_with_done: bool
    """Whether a stream of this route is only whole with `[DONE]`, or an error, at its end."""
    heartbeats: bool
    """Whether it may begin before the model is there."""
    prefix: Prefix | None = None
    """Hashes of its growing beginnings, for the choice of a replica."""
    listener: Listener | None = None
    pictures: Pictures | None = None
    """Who keeps those that are asked for as URLs."""


class Proxy:
    """Between exchanges and replicas."""

    def __init__(
        self,
        *,
        fleet: FleetPort,
        upstreams: Upstreams,
        meaning: Callable[[str], str],
        metrics: Metrics,
        clock: Clock,
        settings: Settings,
    ) -> None:
        """`meaning`: what an alias stands for that a replica cannot know; any other name as it is."""
        self._fleet = fleet
        self._meaning = meaning
        self._upstreams = upstreams
        self._metrics = metrics
        self._clock = clock
        self._heartbeat_s = settings.heartbeat_s
        self._wait_s = settings.wait_s

    async def forward(self, exchange: Exchange, job: Job) -> None:
        """Answer the exchange. Raises what the fleet raises, and EngineError for what replicas do."""
        heartbeat = self._heartbeat(exchange, job) if job.heartbeats and job.target.stream else None
        asked_at = self._clock.monotonic()
        wait_s = self._wait_s if heartbeat else min(self._wait_s, _patience_s(exchange))
        if exchange.idle:
            wait_s = IDLE_WAIT_S
        try:
            try:
                await self._attempt(exchange, job, heartbeat, wait_s=wait_s)
            except Unreachable:
                # The request was not delivered, so a replica that is alive may have it.
                left_s = max(0.0, wait_s - (self._clock.monotonic() - asked_at))
                await self._attempt(exchange, job, heartbeat, wait_s=left_s)
        except Unreachable:
            raise ReplicaDied("the model's process cannot be reached: try again", retry_after_s=1) from None
        finally:
            if heartbeat is not None:
                await heartbeat.stop()

    async def _attempt(
        self, exchange: Exchange, job: Job, heartbeat: Heartbeat | None, *, wait_s: float
    ) -> None:
        asked_at = self._clock.monotonic()
        lease = await self._fleet.acquire(
            job.target.model, wait_s=wait_s, prefix=job.prefix, idle=exchange.idle
        )
        exchange.model = lease.model
        if not exchange.idle:
            self._metrics.waited(lease.model, self._clock.monotonic() - asked_at)
        died = False
        try:
            await self._relay(exchange, job, lease, heartbeat)
        except (Unreachable, ReplicaDied):
            died = True
            raise
        finally:
            self._fleet.release(lease, died=died)

    def _heartbeat(self, exchange: Exchange, job: Job) -> Heartbeat:
        every_s = min(self._heartbeat_s, _patience_s(exchange) / 2)
        return Heartbeat(exchange, progress=lambda: self._fleet.progress(job.target.model), every_s=every_s)

    async def _relay(self, exchange: Exchange, job: Job, lease: Lease, heartbeat: Heartbeat | None) -> None:
        handoff = self._handoff(exchange, job, lease.address)
        head = _request_head(exchange, job, handoff, meant=self._meaning(job.target.model))
        connection = await self._ask(lease.address, head, job.body)
        try:
            self._fleet.first_byte(lease)
            if heartbeat is not None:
                await heartbeat.stop()
            exchange.expect_replica()
            await _Answer(exchange, connection, job, handoff).pass_on()
        except UpstreamLost as error:
            raise ReplicaDied(f"the model's process broke off its answer: {error}") from None
        finally:
            self._upstreams.give_back(lease.address, connection)

    def _handoff(self, exchange: Exchange, job: Job, address: Address) -> Handoff | None:
        """For a stream that nobody here listens to, from a replica of this machine."""
        client = exchange.direct
        if client is None or not job.target.stream or job.listener is not None or address.scheme != "unix":
            return None
        return Handoff(self._upstreams, address, client)

    async def _ask(self, address: Address, head: bytes, body: Body) -> Connection:
        """A connection on which the head of the answer has come. Raises Unreachable and ReplicaDied."""
        kept = self._upstreams.take(address)
        if kept is not None:
            try:
                return await _send(kept, head, body)
            except UpstreamLost as error:
                if kept.answered:
                    raise ReplicaDied(f"the model's process broke off: {error}") from None
        try:
            return await _send(await self._upstreams.connect(address), head, body)
        except UpstreamLost as error:
            raise ReplicaDied(f"the model's process died before it answered: {error}") from None
        except Unreachable:
            if kept is None:
                raise
            # It may have died of this very request: it must not meet the next replica too.
            raise ReplicaDied("the model's process died before it answered: try again") from None


async def _send(connection: Connection, head: bytes, body: Body) -> Connection:
    try:
        await connection.request(head, body)
        await connection.response()
    except BaseException:
        connection.abort()
        raise
    return connection


def _request_head(exchange: Exchange, job: Job, handoff: Handoff | None, *, meant: str) -> bytes:
    lines = [b"POST " + job.path.encode("ascii") + b" HTTP/1.1\r\nhost: replica"]
    for name in FORWARDED:
        value = exchange.headers.get(name)
        if value is not None and b"\r" not in value and b"\n" not in value:
            lines.append(name + b": " + value)
    if meant != job.target.model:
        lines.append(b"x-ekiben-model: " + meant.encode("ascii"))
    lines.append(b"x-request-id: " + exchange.id_header[1])
    if job.listener is not None:
        lines.append(job.listener.header)
    if handoff is not None:
        lines.append(handoff.header)
    if job.pictures is not None:
        lines.append(PICTURES_HEADER + b": kept")
    lines.append(b"content-length: %d\r\n\r\n" % job.body.size_bytes)
    return b"\r\n".join(lines)


def _patience_s(exchange: Exchange) -> float:
    """How long the client will wait for the next byte, less a margin to answer in; infinity: not said."""
    seconds = min(_seconds(exchange.headers.get(name)) for name in PATIENCE_HEADERS)
    return max(0.1, seconds - max(0.5, seconds * 0.05)) if seconds < math.inf else math.inf


def _seconds(value: bytes | None) -> float:
    if value is None:
        return math.inf
    try:
        seconds = float(value)
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf


class _Answer:
    """One answer of a replica on its way to the client."""

    def __init__(self, exchange: Exchange, connection: Connection, job: Job, handoff: Handoff | None) -> None:
        self._handoff = handoff
        self._exchange = exchange
        self._connection = connection
        self._job = job
        self._status = connection.status
        self._headers = [pair for pair in connection.headers if pair[0] in RETURNED]
        headers = dict(connection.headers)
        self._type = headers.get(b"content-type", b"").lower()
        self._pictures = job.pictures if PICTURES_HEADER in headers else None

    async def pass_on(self) -> None:
        """Raises UpstreamLost when it is cut short, EngineError when it is none of ours."""
        if self._status >= 400:
            await self._pass_error()
        elif self._type.startswith(EVENT_STREAM):
            await self._pass_events()
        elif self._exchange.status or self._type.startswith(b"text/html") or self._status >= 300:
            shown = self._type.decode("latin-1")[:60]
            raise EngineError(f"the model's process sent {self._status} {shown!r}, which is no answer")
        elif self._pictures is not None:
            await self._pass_urls(self._pictures)
        else:
            await (self._pass_bytes() if self._job.listener is None else self._pass_whole(self._job.listener))

    async def _pass_bytes(self) -> None:
        exchange, connection = self._exchange, self._connection
        await exchange.start(self._status, self._headers)
        more = True
        while more:
            data = await connection.read()
            more = not connection.at_end
            await exchange.write(data, more=more)

    async def _pass_whole(self, listener: Listener) -> None:
        body = bytearray()
        while data := await self._connection.read():
            body += data
        await listener.whole(bytes(body))
        await self._exchange.start(self._status, self._headers)
        await self._exchange.write(bytes(body), more=False)

    async def _pass_urls(self, pictures: Pictures) -> None:
        body = bytearray()
        while data := await self._connection.read():
            body += data
        answer = await pictures.with_urls(self._exchange, bytes(body))
        headers = [pair for pair in self._headers if pair[0] != b"content-length"]
        await self._exchange.start(self._status, [*headers, (b"content-length", b"%d" % len(answer))])
        await self._exchange.write(answer, more=False)

    async def _pass_events(self) -> None:
        exchange, connection, listener = self._exchange, self._connection, self._job.listener
        handoff = self._handoff
        if not exchange.status:
            await exchange.start_events()
        stream = EventStream()

        def at_once(data: bytes) -> bool:
            """Straight on to the client: a task that is woken costs more than a token."""
            if not exchange.takes_at_once:
                return False
            if ready := stream.feed(data):
                exchange.write_at_once(ready)
            if handoff is not None:
                handoff.passed(len(data), stream)
            return True

        try:
            while data := await connection.read(None if listener else at_once):
                ready = stream.feed(data)
                if ready and (listener is None or (ready := listener.hear(ready))):
                    await exchange.write(ready)
                if handoff is not None:
                    handoff.passed(len(data), stream)
        except UpstreamLost:
            # What is held is half an event: it is dropped, so that the error can be read.
            await self._close_event(stream)
            raise
        finally:
            if handoff is not None:
                handoff.end(whole=connection.at_end)
        rest = stream.finish()
        if listener is not None:
            rest = listener.hear(rest) + await listener.finish()
        if rest:
            await exchange.write(rest)
        if self._job.ends_with_done and not (stream.done or stream.failed):
            await self._close_event(stream)
            raise ReplicaDied("the model's process ended its answer before it was whole")
        await exchange.write(b"", more=False)

    async def _close_event(self, stream: EventStream) -> None:
        if stream.open:
            await self._exchange.write(b"\n\n")

    async def _pass_error(self) -> None:
        """An error of the replica goes through as its clients know it, anything else is told by us."""
        body = bytearray()
        while data := await self._connection.read():
            body += data
            if len(body) > MAX_ERROR_BYTES:
                break
        whole = bytes(body)
        exchange = self._exchange
        if not exchange.manner.is_error(whole):
            raise EngineError(f"the model's process failed with status {self._status}: see its log")
        exchange.failed_with = self._status
        if exchange.status:
            await exchange.write(exchange.manner.errors.event(whole), more=False)
            return
        headers = [pair for pair in self._headers if pair[0] != b"content-length"]
        await exchange.start(self._status, [*headers, (b"content-length", b"%d" % len(whole))])
        await exchange.write(whole, more=False)
