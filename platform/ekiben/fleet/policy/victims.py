"""Who has to go when memory is wanted: the smallest plan in the order of a policy.

A plan that does not free enough is no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ekiben.fleet.decisions.ledger import Memory

T = TypeVar("T")


def victims(
    candidates: Iterable[T],
    lacking: Memory,
    *,
    memory: Callable[[T], Memory],
    worth: Callable[[T], Any],
) -> tuple[T, ...] | None:
    """Who must go so that nothing is lacking on any device, least worthy first; None if that cannot be.

    Nobody is among them without need: the most worthy is spared first, if the others are enough.
    `worth` gives values that can be compared, and no two alike.
    """
    left = dict(lacking)
    chosen: list[T] = []
    for candidate in sorted(candidates, key=worth):
        if all(size <= 0 for size in left.values()):
            break
        held = memory(candidate)
        if any(left[device] > 0 and held.get(device, 0) > 0 for device in left):
            chosen.append(candidate)
            left = {device: size - held.get(device, 0) for device, size in left.items()}
    if any(size > 0 for size in left.values()):
        return None
    return _without_the_needless(chosen, {device: -size for device, size in left.items()}, memory)


def _without_the_needless(
    chosen: list[T], spare: dict[str, int], memory: Callable[[T], Memory]
) -> tuple[T, ...]:
    needed: list[T] = []
    for candidate in reversed(chosen):
        held = memory(candidate)
        if all(held.get(device, 0) <= size for device, size in spare.items()):
            spare = {device: size - held.get(device, 0) for device, size in spare.items()}
        else:
            needed.append(candidate)
    return tuple(reversed(needed))
