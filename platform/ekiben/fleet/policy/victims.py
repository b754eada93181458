"""Who has to go when memory is wanted: an order of the residents, and the smallest plan found in it.

The order is a policy's. A plan that does not free enough is no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from ekiben.contract.policy import Resident

Worth: TypeAlias = Callable[[Resident], Any]
"""What keeping a resident is worth; the values of one function can be compared."""


def victims(residents: Iterable[Resident], *, needed_bytes: int, worth: Worth) -> tuple[Resident, ...] | None:
    """Who must go so that `needed_bytes` become free, least worthy first; None if that cannot be done.

    Nobody is in the plan without need: the most worthy is spared first, if the others are enough.
    """
    if needed_bytes <= 0:
        return ()
    plan: list[Resident] = []
    freed_bytes = 0
    for resident in sorted(residents, key=lambda r: (worth(r), r.name)):
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
