"""Comments that keep a waiting stream alive: proxies and people see that something is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ekiben.errors import EkibenError
from ekiben.fleet.types import Progress
from ekiben.gateway.http.exchange import Exchange


class Heartbeat:
    """Begins the stream of events after a pause, and sends a comment after each further one.

    Costs one timer until the first beat. The comments are no events: clients of the API skip them.
    """

    def __init__(self, exchange: Exchange, *, progress: Callable[[], Progress], every_s: float) -> None:
        self._exchange = exchange
        self._progress = progress
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(every_s, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._beat(), name=f"heartbeat {self._exchange.id}")

    async def _beat(self) -> None:
        await self._exchange.start_events()
        while True:
            await self._exchange.write(self._comment())
            await asyncio.sleep(self._every_s)

    def _comment(self) -> bytes:
        try:
            progress = self._progress()
        except EkibenError:
            return b": ekiben waiting\n\n"
        return f": ekiben {in_words(progress)}\n\n".encode()

    async def stop(self) -> None:
        """No comment is sent after this, and none is cut in half."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


def in_words(progress: Progress) -> str:
    """`loading 25%, 3s left (queued 0.1s, starting 0.4s, loading 1.2s)`: what is known, on one line."""
    text = " ".join(progress.stage.split())
    if progress.progress is not None:
        text += f" {progress.progress:.0%}"
    if progress.eta_s is not None:
        text += f", {_seconds(progress.eta_s)} left"
    stages = [f"{stage} {_seconds(taken_s)}" for stage, taken_s in progress.stages_s.items()]
    return f"{text} ({', '.join(stages)})" if stages else text


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
