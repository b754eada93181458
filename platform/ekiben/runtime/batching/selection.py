"""Which items leave together. Pure: a look at what waits, and nothing changed.

Fair: the request that has waited longest for a place has the first one, and then, of those who have an item
of about its length, each has one in turn. Frugal: the nearest in length go along first, and an item goes
along only as long as the padding of the whole batch costs no more than another batch would.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ekiben.runtime.batching.jobs import Queued


class Waiting(Protocol):
    """A request, as far as the choice depends on it."""

    @property
    def lane(self) -> Hashable: ...
    @property
    def turn_s(self) -> float: ...
    @property
    def groups(self) -> Collection[Hashable]: ...
    def first(self) -> Queued: ...
    def nearest(self, group: Hashable, length: int) -> Iterator[Queued]: ...


class Reason(StrEnum):
    """Why a batch left as it was."""

    FULL = "full"
    """No more fits into it: by number, by size, or within the time that a batch may take."""
    ALL = "all"
    """Nothing else waited, and nobody was expected soon."""
    LINGERED = "lingered"
    """Nothing else waited, and those who were expected have not come."""
    PADDING = "padding"
    """What else waited is of other lengths."""
    OTHERS = "others"
    """What else waited has other parameters, or is for another ability."""
    RETRY = "retry"
    """A half of one that failed."""


ALIKE: Final = 8
"""Lengths that differ by no more than such a part of the first are about the same."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one batch. An area is a number of items, times the length of the longest; or the sum of lengths."""

    items: int
    area: float = math.inf
    padding: float = math.inf
    """Area that is given to padding."""
    packed: bool = False
    """Nothing is padded, so that items of all lengths are alike."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Indices of the requests that were looked at, each with one of its items."""

    picks: Sequence[tuple[int, Queued]]
    reason: Reason
    packed: bool = False

    @property
    def area(self) -> int:
        return area_of([queued.length for _, queued in self.picks], packed=self.packed)

    @property
    def padding(self) -> int:
        """Of the area."""
        return self.area - sum(queued.length for _, queued in self.picks)

    @property
    def requests(self) -> int:
        return len({index for index, _ in self.picks})


def area_of(lengths: Sequence[int], *, packed: bool) -> int:
    """What items of these lengths cost together."""
    return sum(lengths) if packed else len(lengths) * max(lengths)


def choose(requests: Sequence[Waiting], limits: Limits) -> Choice:
    """What leaves next, of requests that have at least one item waiting each."""
    order = sorted(range(len(requests)), key=lambda index: (requests[index].turn_s, index))
    lane, first = requests[order[0]].lane, requests[order[0]].first()
    along = [
        index
        for index in order
        if requests[index].lane == lane and first.item.group in requests[index].groups
    ]
    others = len(along) < len(requests)
    takers = [requests[index].nearest(first.item.group, first.length) for index in along]
    line = _Line(takers, None if limits.packed else first.length)
    picks: list[tuple[int, Queued]] = []
    size = _Size(limits)
    reason = Reason.ALL
    while (offered := line.nearest()) is not None:
        place, queued = offered
        refused = size.refuses(queued.length)
        if refused is None:
            size.add(queued.length)
            picks.append((along[place], queued))
            if len(picks) == limits.items:
                return Choice(picks, Reason.FULL, limits.packed)
            line.go_on(place)
        else:
            reason = Reason.FULL if Reason.FULL in (reason, refused) else refused
    others = others or any(len(request.groups) > 1 for request in requests)
    return Choice(picks, Reason.OTHERS if reason is Reason.ALL and others else reason, limits.packed)


class _Line:
    """Those who can go along, each with its nearest item at hand."""

    def __init__(self, takers: Sequence[Iterator[Queued]], length: int | None) -> None:
        """`length`: to which others had better be near; None: to none."""
        self._length = length
        self._alike = max(1, (length or 0) // ALIKE)
        self._takers = takers
        self._turns = [0] * len(takers)
        self._heap: list[tuple[int, int, int, Queued]] = []
        for place in range(len(takers)):
            self.go_on(place)

    def nearest(self) -> tuple[int, Queued] | None:
        """Of all, with the place of its taker, who has no other until told to go on."""
        if not self._heap:
            return None
        *_, place, queued = heapq.heappop(self._heap)
        return place, queued

    def go_on(self, place: int) -> None:
        """With its next item. Of those about as near, each taker has one in turn."""
        if (queued := next(self._takers[place], None)) is not None:
            distance = 0 if self._length is None else abs(queued.length - self._length) // self._alike
            heapq.heappush(self._heap, (distance, self._turns[place], place, queued))
            self._turns[place] += 1


class _Size:
    """A batch that grows."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._items = self._longest = self._total = 0

    def refuses(self, length: int) -> Reason | None:
        """Why an item of the length cannot go along. The first always can."""
        if not self._items:
            return None
        if self._limits.packed:
            return Reason.FULL if self._total + length > self._limits.area else None
        area = (self._items + 1) * max(self._longest, length)
        if area > self._limits.area:
            return Reason.FULL
        return Reason.PADDING if area - self._total - length > self._limits.padding else None

    def add(self, length: int) -> None:
        self._items += 1
        self._longest = max(self._longest, length)
        self._total += length
