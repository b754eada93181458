"""How many replicas a model should have: a pure function of its demand and its terms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

SCALE_OUT_S: Final = 0.5
"""A crowd that lasts so long gets one more replica; the first is started at once."""
SCALE_IN_S: Final = 60.0
"""With so long too little to do, one replica goes."""
ROOM: Final = 0.75
"""The others must be able to take over with so much of their concurrency, or a replica stays."""
DEFAULT_CONCURRENCY: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the catalog and the settings ask for a model."""

    keep_alive_s: float | None = None
    """None: the policy decides; infinity: it stays."""
    min_replicas: int = 0
    max_replicas: int = 1
    concurrency: int = DEFAULT_CONCURRENCY
    """Requests at a time that one replica is meant for."""
    idle_concurrency: int = DEFAULT_CONCURRENCY - 1
    """Requests at a time up to which a replica is given work that nobody waits for."""
    pinned: bool = False
    """Never evicted for another model."""


def idle_concurrency(concurrency: int, *, one_by_one: bool) -> int:
    """How far a replica is filled with work that nobody waits for, so that who comes next finds a place.

    `one_by_one`: its engine has no places side by side, so whoever comes waits for all that it was given.
    """
    return 1 if one_by_one else max(1, concurrency - 1)


def needed(terms: Terms, demand: int) -> int:
    """Replicas for so many requests, running and waiting, within the terms."""
    by_load = math.ceil(demand / terms.concurrency)
    return max(terms.min_replicas, min(by_load, terms.max_replicas))


def can_spare_one(terms: Terms, *, demand: int, replicas: int) -> bool:
    """Whether one replica less would do, with some room."""
    least = max(1, terms.min_replicas)
    return replicas > least and demand <= ROOM * terms.concurrency * (replicas - 1)
