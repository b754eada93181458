"""Who has to go when memory is wanted: an order of the residents, and the smallest plan found in it.

A `Worth` says what keeping a resident is worth; the least worthy goes first. Nobody who is busy or
pinned is ever in a plan, and a plan that does not free enough is no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Resident:
    """One model in memory, as the policy sees it."""

    name: str
    size_bytes: int
    """What its departure frees on the device where memory is wanted."""
    cold_cost_s: float
    """How long it takes, as measured, until it serves again."""
    rate: float
    """Its decayed number of uses, now: `History.rate`."""
    last_use_s: float
    busy: bool = False
    pinned: bool = False


Worth: TypeAlias = Callable[[Resident], Any]
"""What keeping a resident is worth; the values of one function can be compared."""


def seconds_saved_per_byte(resident: Resident) -> float:
    """GreedyDual with a decayed rate: the waiting that a byte of this model is expected to spare."""
    return resident.rate * resident.cold_cost_s / max(resident.size_bytes, 1)


def recency(resident: Resident) -> float:
    """LRU: the longest unused goes first."""
    return resident.last_use_s


def victims(
    residents: Iterable[Resident], *, needed_bytes: int, worth: Worth = seconds_saved_per_byte
) -> tuple[Resident, ...] | None:
    """Who must go so that `needed_bytes` become free, least worthy first; None if that cannot be done.

    Nobody is in the plan without need: the most worthy is spared first, if the others are enough.
    """
    if needed_bytes <= 0:
        return ()
    plan: list[Resident] = []
    freed_bytes = 0
    for resident in sorted(
        (r for r in residents if not (r.busy or r.pinned)), key=lambda r: (worth(r), r.name)
    ):
        plan.append(resident)
        freed_bytes += resident.size_bytes
        if freed_bytes >= needed_bytes:
            return _without_the_needless(plan, freed_bytes - needed_bytes)
    return None


def _without_the_needless(plan: list[Resident], spare_bytes: int) -> tuple[Resident, ...]:
    needed: list[Resident] = []
    for resident in reversed(plan):
        if resident.size_bytes <= spare_bytes:
            spare_bytes -= resident.size_bytes
        else:
            needed.append(resident)
    return tuple(reversed(needed))
