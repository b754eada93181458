"""One batch on its way: what the engine sees of it while it computes, and what becomes of it if it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ekiben.clock import SYSTEM_CLOCK
from ekiben.runtime.batching.jobs import Job, Queued
from ekiben.runtime.batching.selection import area_of

if TYPE_CHECKING:
    from ekiben.runtime.batching.batcher import Lane

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(eq=False)
class Batch:
    """A `Run`, besides. Its properties may be read from any thread: what they look at only goes false."""

    lane: Lane
    picks: list[tuple[Job, Queued]]
    prepared: Any = None
    ends_s: float | None = None
    """When it will probably be done."""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    @property
    def jobs(self) -> list[Job]:
        """Each once."""
        return list(dict.fromkeys(job for job, _ in self.picks))

    @property
    def requests(self) -> int:
        return len(self.jobs)

    @property
    def longest(self) -> int:
        return max(queued.length for _, queued in self.picks)

    @property
    def area(self) -> int:
        return area_of([queued.length for _, queued in self.picks], packed=self.lane.packs)

    @property
    def wanted(self) -> bool:
        return any(job.live for job, _ in self.picks)

    def waits_for(self, index: int) -> bool:
        return self.picks[index][0].live

    def tell(self, index: int, news: object) -> None:
        job = self.picks[index][0]
        if job.streamed and job.live:
            self._loop.call_soon_threadsafe(job.outlet.put_nowait, news)

    def halves(self) -> Iterator[Batch]:
        """Of what is still wanted."""
        picks = [pick for pick in self.picks if pick[0].live]
        middle = (len(picks) + 1) // 2
        for part in (picks[:middle], picks[middle:]):
            if part:
                yield Batch(self.lane, part)


def timed(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """What it gives, and the seconds that it took."""
    started_s = SYSTEM_CLOCK.monotonic()
    return function(*args, **kwargs), SYSTEM_CLOCK.monotonic() - started_s
