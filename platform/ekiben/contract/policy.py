"""The policy protocol: who goes when memory is wanted, and how long an idle model stays.

Unlike an engine, a policy is imported by the platform itself and called in the loop that decides: its
methods must answer within a fraction of a millisecond, from what they are given. It may learn from its
calls, but reads no clock, does no I/O and draws no lots, so that a simulation of recorded traffic says
what the fleet would have done. A policy that raises, or answers with something else than a number, is
replaced by another one for as long as the platform runs.

What is busy, pinned or too young to go is the platform's business: it asks about nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

NOTABLE_GAP_S: Final = 30.0
"""A shorter idle time is never worth an unload, and says nothing about the longer ones."""


@dataclass(frozen=True, slots=True)
class Resident:
    """One holder of memory, as a policy sees it: a model's replica, or a warm process without a model."""

    name: str
    size_bytes: int
    """What its departure frees on the devices where memory is wanted."""
    cold_cost_s: float
    """How long it takes, as measured, until it serves again."""
    rate: float
    """Its number of uses, those of the past counting ever less; they survive its departure."""
    last_use_s: float
    """When its last use ended, on a clock that runs evenly and that all residents share."""
    idle_s: float = 0.0
    """How long that is ago; 0 while it is busy."""
    gaps_s: tuple[float, ...] = ()
    """Its last idle times, as in `Idle`; of a warm process none are known."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A model that is loaded and has nothing to do."""

    name: str
    size_bytes: int
    cold_cost_s: float
    gaps_s: tuple[float, ...]
    """Its last idle times, oldest first, none shorter than `NOTABLE_GAP_S`: from the end of a request to
    the start of the next, whether it was in memory all the time or not."""


class Policy(Protocol):
    """A plugin that decides over memory. One object decides for as long as the platform runs."""

    def worth(self, resident: Resident) -> float:
        """What keeping it is worth; the least worthy goes first. Only compared with answers of the same
        moment; equals go by name."""

    def keep_alive_s(self, idle: Idle) -> float:
        """After how long it is unloaded if nobody uses it; infinity: it stays.

        Asked when the model becomes idle, and perhaps again with the same `gaps_s` if its size or cost
        has changed; an idle time that ends appears as the last of its `gaps_s` the next time.
        """
