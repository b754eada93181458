"""Responses that go on without their client: what runs, what was told of it so far, and how it ends.

A run is a request like any other, but that its client is this module. Its events are held in memory, and for
a while after its end; what lasts is the row in the database, which the run settles when it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from ekiben.clock import Clock
from ekiben.errors import ConfigError, QueueFull, envelope, for_clients
from ekiben.gateway.http.answers import Manner
from ekiben.gateway.http.asgi import Message
from ekiben.gateway.relay.errand import Serve, Work, errand
from ekiben.gateway.responses.recorder import Recorder
from ekiben.responses import OPENING_EVENTS, error_events, failed, opening_events

logger = logging.getLogger(__name__)

MAX_RUNS: Final = 1024
"""In the background at the same time."""
EVENTS_KEPT_S: Final = 300.0
"""After the end of a run."""

_COMMENT: Final = b": ekiben waiting\n\n"

Settle: TypeAlias = Callable[[str, bytes], Awaitable[None]]
"""Write down how a run ended, given the status and the response's JSON."""


class Run:
    """One response in the background."""

    def __init__(self, response: dict[str, Any], settle: Settle) -> None:
        self.response = response
        self.events = opening_events(response)
        self.done = False
        self.settle = settle
        self.task: asyncio.Task[None] | None = None
        self.recorder: Recorder | None = None
        self._status = 0
        self._held = b""
        self._changed = asyncio.Event()

    async def hear(self, message: Message) -> None:
        """What the run's exchange sends."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            return
        self._held += message.get("body", b"")
        if self._status < 400:
            *events, self._held = self._held.split(b"\n\n")
            self._tell([event + b"\n\n" for event in events if not event.startswith(b":")])

    def error_told(self) -> Mapping[str, Any] | None:
        """The error that was answered in place of a stream."""
        return None if self._status < 400 else msgspec.json.decode(self._held)["error"]

    def end(self, response: dict[str, Any], events: list[bytes] | None = None) -> None:
        """It is over: nothing is told after this."""
        self.response = response
        self.done = True
        self._tell(events or [])

    async def follow(self, after: int, *, beat_s: float) -> AsyncGenerator[bytes, None]:
        """The events after the one with this number, until the last one; comments while there is none."""
        position = after + 1
        while True:
            changed = self._changed
            if position < len(self.events):
                data = b"".join(self.events[position:])
                position = len(self.events)
                yield data
            elif self.done:
                return
            else:
                try:
                    async with asyncio.timeout(beat_s):
                        await changed.wait()
                except TimeoutError:
                    yield _COMMENT

    def _tell(self, events: list[bytes]) -> None:
        self.events += events
        if not self.done and len(self.events) > OPENING_EVENTS:
            self.response = {**self.response, "status": "in_progress"}
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Background:
    """All runs, by the id of their response."""

    def __init__(self, *, serve: Serve, clock: Clock) -> None:
        self._serve = serve
        self._clock = clock
        self._runs: dict[str, Run] = {}

    def get(self, response_id: str) -> Run | None:
        """One that goes on, or has ended a short while ago."""
        return self._runs.get(response_id)

    def check_room(self) -> None:
        """Raises QueueFull."""
        if sum(not run.done for run in self._runs.values()) >= MAX_RUNS:
            raise QueueFull(f"{MAX_RUNS} responses are under way in the background", retry_after_s=10)

    def start(self, run: Run, recorder: Recorder, work: Work, *, request_id: bytes) -> None:
        """Let it go on by itself."""
        response_id: str = run.response["id"]
        run.recorder = recorder
        self._runs[response_id] = run
        run.task = asyncio.create_task(self._go(run, recorder, work, request_id), name=f"run {response_id}")

    async def cancel(self, run: Run) -> None:
        """End it, and wait until the engine has been let go. Nothing happens to one that has ended."""
        await self._stop(run)
        if not run.done:
            response = {**run.response, "status": "cancelled"}
            await run.settle("cancelled", msgspec.json.encode(response))
            self._end(run, response)

    async def forget(self, response_id: str) -> None:
        """End it, and keep nothing of it."""
        run = self._runs.pop(response_id, None)
        if run is not None:
            await self._stop(run)
            run.end({**run.response, "status": "cancelled"})

    async def close(self) -> None:
        """End them all: what was not finished has failed."""
        for run in list(self._runs.values()):
            await self._stop(run)
            if not run.done:
                await self._fail(run, STOPPED)

    async def _stop(self, run: Run) -> None:
        task, recorder = run.task, run.recorder
        if task is not None and not task.done():
            if recorder is None or not recorder.ending:  # what is being written down is over anyway
                task.cancel()
            await asyncio.wait({task})

    async def _go(self, run: Run, recorder: Recorder, work: Work, request_id: bytes) -> None:
        exchange = errand("/v1/responses", run.hear, clock=self._clock, request_id=request_id)
        exchange.route = "/v1/responses"
        exchange.manner = Manner(recorder, enveloped=True)
        await self._serve(exchange, work)
        if recorder.response is not None:
            self._end(run, msgspec.json.decode(recorder.response))
            return
        told = run.error_told()
        error = envelope(for_clients(exchange.error))["error"] if exchange.error is not None else told
        await self._fail(run, error or STOPPED, tell=told is not None)

    async def _fail(self, run: Run, error: Mapping[str, Any], *, tell: bool = True) -> None:
        response = failed(run.response, error)
        events = error_events(error, number=len(run.events), response=run.response) if tell else []
        try:
            await run.settle("failed", msgspec.json.encode(response))
        except ConfigError as reason:
            logger.warning("how %s ended cannot be kept: %s", response["id"], reason.message)
        self._end(run, response, events)

    def _end(self, run: Run, response: dict[str, Any], events: list[bytes] | None = None) -> None:
        run.end(response, events)
        response_id: str = response["id"]
        asyncio.get_running_loop().call_later(EVENTS_KEPT_S, self._runs.pop, response_id, None)


STOPPED: Final[Mapping[str, Any]] = {
    "message": "the platform ended while this response was under way: ask again",
    "type": "server_error",
    "param": None,
    "code": "shutting_down",
}
