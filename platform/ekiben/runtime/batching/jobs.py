"""Requests under way: the items that wait, the results that are there, and what their client is told.

All of it belongs to the event loop; other threads may read `live`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ekiben.contract.batching import Item


@dataclass(frozen=True, slots=True, eq=False)
class Queued:
    """An item that waits. Each is like itself alone: values need not be comparable."""

    index: int
    """Its place in the request."""
    item: Item[Any]

    @property
    def length(self) -> int:
        return self.item.length


END: Final = object()
"""What the outlet of a streamed job gives last."""


@dataclass(eq=False)
class Job:
    """One request. `lane`: the Batching that it is for, by a name; only items of one lane go together."""

    lane: Hashable
    request: Any
    arrived_s: float
    streamed: bool = False
    waiting: dict[Hashable, list[Queued]] = field(default_factory=dict)
    """By group; in the order of the request if it is streamed, else from the shortest to the longest."""
    results: dict[int, Any] = field(default_factory=dict)
    """Those of a streamed job only until they are told."""
    waiting_length: int = 0
    """Of all its items that wait: kept, since it is asked for whenever something happens."""
    count: int = 0
    """Items known so far."""
    complete: bool = False
    """Whether more items may come."""
    told: int = 0
    """Results that went into the outlet."""
    live: bool = True
    """Whether anybody waits for it."""
    turn_s: float = 0.0
    """When it was last given a place in a batch; until then, when it came."""
    served: bool = False
    """Whether it was given one."""
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    outlet: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever there may be room for more items of an iterator."""

    def __post_init__(self) -> None:
        self.turn_s = self.arrived_s

    @property
    def waiting_count(self) -> int:
        return sum(map(len, self.waiting.values()))

    @property
    def groups(self) -> Collection[Hashable]:
        """Of the items that wait."""
        return self.waiting.keys()

    def add(self, item: Item[Any]) -> None:
        queued = Queued(self.count, item)
        self.count += 1
        self.waiting_length += item.length
        line = self.waiting.setdefault(item.group, [])
        if self.streamed:
            line.append(queued)
        else:
            insort(line, queued, key=lambda other: other.length)

    def first(self) -> Queued:
        """What has to leave next: the earliest of a streamed job, else the longest, which needs most."""
        if self.streamed:
            return min((line[0] for line in self.waiting.values()), key=lambda queued: queued.index)
        return max((line[-1] for line in self.waiting.values()), key=lambda queued: queued.length)

    def nearest(self, group: Hashable, length: int) -> Iterator[Queued]:
        """Its items of a group: those of about the length first, if it may choose."""
        line = self.waiting.get(group, [])
        if self.streamed:
            yield from line
            return
        above = bisect_right(line, length, key=lambda queued: queued.length)
        below = above - 1
        while below >= 0 or above < len(line):
            up = line[above].length - length if above < len(line) else None
            if below >= 0 and (up is None or length - line[below].length <= up):
                yield line[below]
                below -= 1
            else:
                yield line[above]
                above += 1

    def take(self, queued: Queued, *, now_s: float) -> None:
        """It leaves in a batch."""
        line = self.waiting[queued.item.group]
        line.remove(queued)
        self.waiting_length -= queued.length
        if not line:
            del self.waiting[queued.item.group]
        self.turn_s = now_s
        self.served = True
        self.taken.set()

    def deliver(self, index: int, result: Any) -> None:
        """Raises nothing; what nobody waits for is dropped."""
        if not self.live:
            return
        self.results[index] = result
        if self.streamed:
            while self.told in self.results:
                self.outlet.put_nowait(self.results.pop(self.told))
                self.told += 1
        self.end_if_complete()

    def end_if_complete(self) -> None:
        if not self.complete or self.done.done():
            return
        if (self.told if self.streamed else len(self.results)) == self.count:
            self.done.set_result(None)
            self.outlet.put_nowait(END)

    def fail(self, error: Exception) -> None:
        """Its client is told of the error, and none of its items is computed any more."""
        if not self.done.done():
            self.done.set_exception(error)
            self.outlet.put_nowait(END)
        self.forget()

    def forget(self) -> None:
        self.live = False
        self.waiting.clear()
        self.waiting_length = 0

    def in_order(self) -> list[Any]:
        return [self.results[index] for index in range(self.count)]
