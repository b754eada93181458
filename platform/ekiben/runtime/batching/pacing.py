"""How large a batch may be, and how long to wait for more: sums over what was measured.

`Pace` learns what a batch costs: a part that every batch costs, and a part for its area. `Crowd` learns
whether clients come back, and how soon, once they have been answered: only where that is likely is there
anything to wait for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ekiben.runtime.batching.selection import Limits

TARGET_OF_SINGLE: Final = 8.0
"""A batch may take so many times what a single item takes, unless told otherwise: what every batch costs is
then an eighth of the work at most, and who comes meanwhile does not wait for long."""
LEAST_TARGET_S: Final = 0.05
"""Nobody notices less."""
_OF_WAITING: Final = 0.25
"""A batch may take so much of what waits, however long that takes."""
_MEMORY: Final = 0.95
"""What a measurement counts for after the next one."""
_TURN_S: Final = 0.0005
"""What every batch costs besides: threads that wake each other."""
_UNUSUAL: Final = 3.0
"""Who is so many times as far from the mean as others are counts as no farther."""
_TICK_S: Final = 0.0001
_LIKELY: Final = 0.25
"""Of one request to come, so much is worth a thought."""
_APART: Final = 3.0
_LATE: Final = 0.5
"""What is waited for those who are late: so many times what they usually come apart, and so much of what it
is worth to have them, if that is longer."""
_ENOUGH: Final = 4
"""Measurements before the sums are believed."""
_SPREAD: Final = 0.02
"""Relative variance of areas from which their cost can be told from the rest."""


@dataclass
class Pace:
    """What batches cost: `fixed_s + area * per_area_s`, fitted to recent ones."""

    target_s: float | None = None
    """How long a batch may take; None: TARGET_OF_SINGLE."""
    fixed_s: float = 0.0
    per_area_s: float = 0.0
    prepare_s: float = 0.0
    batches: int = 0
    _weight: float = 0.0
    _area: float = 0.0
    _seconds: float = 0.0
    _areas: float = 0.0
    """Variance of areas, and their covariance with seconds."""
    _both: float = 0.0
    _length: float = 0.0
    """Of the longest of a batch, in the mean."""

    def prepared(self, seconds: float) -> None:
        self.prepare_s += (seconds - self.prepare_s) * (0.2 if self.prepare_s else 1.0)

    def computed(self, *, area: int, longest: int, seconds: float) -> None:
        """One more batch was measured."""
        self.batches += 1
        self._weight = _MEMORY * self._weight + 1
        share = 1 / self._weight
        d_area, d_seconds = area - self._area, seconds - self._seconds
        self._area += share * d_area
        self._seconds += share * d_seconds
        self._length += share * (longest - self._length)
        self._areas += share * (d_area * (area - self._area) - self._areas)
        self._both += share * (d_area * (seconds - self._seconds) - self._both)
        self._fit()

    def _fit(self) -> None:
        if self._areas > _SPREAD * self._area**2:
            self.per_area_s = min(max(0.0, self._both / self._areas), self._seconds / max(self._area, 1e-9))
        elif (was := self.fixed_s + self._area * self.per_area_s) > 0:
            self.per_area_s *= self._seconds / was  # of one size only: as slower or faster as the whole
        self.fixed_s = max(0.0, self._seconds - self._area * self.per_area_s)

    @property
    def known(self) -> bool:
        return self.batches >= _ENOUGH

    def predicted_s(self, area: float) -> float | None:
        """How long a batch will take; None: not known yet."""
        return self.fixed_s + area * self.per_area_s if self.known else None

    @property
    def longest_s(self) -> float:
        """How long a batch may take."""
        if self.target_s is not None:
            return self.target_s
        return max(LEAST_TARGET_S, TARGET_OF_SINGLE * (self.fixed_s + self._length * self.per_area_s))

    def limits(
        self, *, max_items: int, max_length: int | None, packed: bool = False, waiting: int = 0
    ) -> Limits:
        """Of the next batch. The first ones are small, so that it is soon known what they cost.

        `waiting`: the lengths of all that waits. With much of it, a large batch keeps nobody waiting who
        would not wait anyway.
        """
        bound = math.inf if max_length is None else float(max_length)
        if not self.known:
            return Limits(items=min(max_items, 2**self.batches), area=bound, packed=packed)
        if not self.per_area_s:
            return Limits(items=max_items, area=bound, packed=packed)
        affordable = max((self.longest_s - self.fixed_s) / self.per_area_s, _OF_WAITING * waiting)
        return Limits(
            items=max_items,
            area=min(bound, max(affordable, 1.0)),
            padding=max((self.fixed_s + _TURN_S) / self.per_area_s, 0.1 * self._area),
            packed=packed,
        )


@dataclass
class Crowd:
    """How many of those who were just answered come back, and how soon."""

    share: float = 0.0
    """Of them, who came before the next batch was done."""
    after_s: float = 0.0
    """When they came, in the mean, and how far from it."""
    apart_s: float = 0.0
    _answered: int = 0
    _came: int = 0
    _at_s: float = -math.inf
    _last_s: float = -math.inf

    def came(self, now_s: float) -> None:
        """A request is here."""
        self._came += 1
        self._last_s = now_s
        if self._came > self._answered:
            return
        after_s = now_s - self._at_s
        if not self.after_s:
            self.after_s, self.apart_s = after_s, after_s / 2
            return
        # Who has made a pause must not be taken for the rule: it would take more of them.
        most_s = _UNUSUAL * self.apart_s + _TICK_S
        off_s = min(max(after_s - self.after_s, -most_s), most_s)
        self.apart_s += 0.1 * (abs(off_s) - self.apart_s)
        self.after_s += 0.1 * off_s

    def answered(self, now_s: float, *, requests: int) -> None:
        """A batch is done, and so are so many requests."""
        if not requests:
            return
        if self._answered:
            self.share += 0.1 * (min(1.0, self._came / self._answered) - self.share)
        self._answered, self._came = requests, 0
        self._at_s = self._last_s = now_s

    def expected(self, now_s: float) -> Expected:
        """Who comes still."""
        due_s = self._at_s + self.after_s - now_s
        more = max(0.0, self._answered * self.share - self._came)
        # Where one of them comes late, so will the others: something has held them all up.
        late_s = min(-due_s, now_s - self._last_s)
        return Expected(more, soon_s=max(due_s, 0.0) + self.apart_s, late_s=late_s, apart_s=self.apart_s)


@dataclass(frozen=True, slots=True)
class Expected:
    """Requests that will probably come."""

    more: float
    soon_s: float
    """When most of them will be here, from now."""
    late_s: float
    """For how long all of them might have been here; negative: they are not due yet."""
    apart_s: float
    """How far from each other they come."""


def linger_s(expected: Expected, *, waiting: int, batch_s: float | None, fixed_s: float) -> float:
    """How long `waiting` requests had better wait for others at most; 0: not at all.

    It pays when those who come, who would else sit through a whole batch, gain more than all lose. It pays
    as well when all of them lose less than the cost of the batch that those others would need. Who is late
    is waited for until half of the gain is lost, or three times as long as they usually come apart.
    """
    more, soon_s = expected.more, expected.soon_s
    if batch_s is None or more < _LIKELY:
        return 0.0
    gain_s = more * batch_s / (waiting + more)
    if soon_s >= gain_s and soon_s >= fixed_s / 2:
        return 0.0
    most_s = max(_APART * expected.apart_s, _LATE * gain_s)
    return max(0.0, most_s - expected.late_s)
