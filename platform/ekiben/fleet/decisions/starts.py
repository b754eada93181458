"""What earlier starts of a model tell about the next one: how long is left, and what a cold start costs.

Everything is the model's own history on this machine, by engine, options and device. What was never
seen is unknown and said to be: there is no guess in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final, Protocol, TypeAlias

from ekiben.fleet.processes.launcher import Plan
from ekiben.fleet.run_key import RunKey

Stages: TypeAlias = Mapping[str, float]
"""Seconds by stage of one start; a stage that was skipped is missing."""

TO_READY: Final = ("queued", "evicting", "fetching", "starting", "loading")
"""The stages of a start in their order, as far as a request waits for them."""
ALWAYS_PAID: Final = ("starting", "loading", "first_token")
"""What a cold start costs even when nothing else stands in its way."""


class StartRecords(Protocol):
    """Where starts are kept."""

    def starts(self, run: RunKey) -> Sequence[Stages]:
        """The last starts, oldest first."""

    def add_start(self, run: RunKey, stages_s: Stages) -> None: ...


class Starts:
    """The book of starts."""

    def __init__(self, records: StartRecords) -> None:
        self._records = records

    def started(self, plan: Plan, stages_s: Stages) -> None:
        """A start is over."""
        self._records.add_start(RunKey.of(plan), stages_s)

    def eta_s(self, plan: Plan, stage: str, elapsed_s: float) -> float | None:
        """Seconds until it is ready, when it has been in `stage` for `elapsed_s`; None: nobody knows."""
        return time_left_s(self._records.starts(RunKey.of(plan)), stage=stage, elapsed_s=elapsed_s)

    def cold_cost_s(self, plan: Plan) -> float | None:
        """How long a request waits for the first bytes of a cold model when nothing stands in its way."""
        return cold_cost_s(self._records.starts(RunKey.of(plan)))


def time_left_s(history: Iterable[Stages], *, stage: str, elapsed_s: float) -> float | None:
    """To the end of the last stage, from the medians of earlier starts.

    Of the stage under way only starts count that were still in it by then: one that drags on is compared
    with those that did. When it takes longer than ever before, nobody knows.
    """
    starts = list(history)
    if stage not in TO_READY:
        return None
    longer = [taken_s for start in starts if (taken_s := start.get(stage, 0.0)) > elapsed_s]
    if not longer:
        return None
    to_come = TO_READY[TO_READY.index(stage) + 1 :]
    return median(longer) - elapsed_s + sum(median(start.get(s, 0.0) for start in starts) for s in to_come)


def cold_cost_s(history: Iterable[Stages]) -> float | None:
    """The sum of the medians of what every cold start pays; None without a history."""
    starts = list(history)
    known = [[start[stage] for start in starts if stage in start] for stage in ALWAYS_PAID]
    return sum(median(times) for times in known if times) if any(known) else None
