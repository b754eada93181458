"""`/api/events`: the fleet's changes as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec

from ekiben.errors import QueueFull
from ekiben.fleet.types import FleetPort
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.routes import Route

MAX_READERS: Final = 64
PULSE_S: Final = 15.0
PULSE: Final = b": ekiben\n\n"


class EventFeed:
    """Makes the route, and ends all its readers when the platform stops."""

    def __init__(self, *, fleet: FleetPort, pulse_s: float = PULSE_S) -> None:
        self._fleet = fleet
        self._pulse_s = pulse_s
        self._readers = 0
        self._stopping = asyncio.Event()

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/events", self._follow)]

    def stop(self) -> None:
        """End all readers."""
        self._stopping.set()

    async def _follow(self, exchange: Exchange, _: str) -> None:
        if self._readers >= MAX_READERS:
            raise QueueFull(f"{MAX_READERS} readers follow the events already: close one", retry_after_s=10)
        self._readers += 1
        exchange.watch()
        events = self._fleet.events()
        try:
            await exchange.start_events()
            await self._send(exchange, events)
            await exchange.write(b"", more=False)
        finally:
            self._readers -= 1

    async def _send(self, exchange: Exchange, events: AsyncIterator[dict[str, Any]]) -> None:
        stopping = asyncio.create_task(self._stopping.wait(), name="events stop")
        coming = _next(events)
        try:
            while True:
                done, _ = await asyncio.wait(
                    {coming, stopping}, timeout=self._pulse_s, return_when=asyncio.FIRST_COMPLETED
                )
                if coming in done:
                    event = coming.result()
                    if event is None:
                        return
                    await exchange.write(_render(event))
                    coming = _next(events)
                elif stopping in done:
                    return
                else:
                    await exchange.write(PULSE)
        finally:
            for task in (coming, stopping):
                task.cancel()
            await asyncio.wait({coming, stopping})
            if isinstance(events, AsyncGenerator):
                await events.aclose()


def _next(events: AsyncIterator[dict[str, Any]]) -> asyncio.Task[dict[str, Any] | None]:
    async def take() -> dict[str, Any] | None:
        return await anext(events, None)

    return asyncio.create_task(take(), name="next event")


def _render(event: dict[str, Any]) -> bytes:
    data = msgspec.json.encode(event, enc_hook=str)
    return b"event: %b\nid: %d\ndata: %b\n\n" % (str(event["type"]).encode(), event["seq"], data)
