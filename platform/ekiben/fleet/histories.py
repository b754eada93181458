"""Keeps how models were used over a restart, so that the policy need not learn anew.

The core counts on a clock that begins anew with each boot; what is kept is the time of day.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Final, Protocol

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.fleet.decisions.state import ModelState
from ekiben.fleet.policy.history import History
from ekiben.fleet.witness import Witness
from ekiben.store.records import Uses

KEEP_EVERY_S: Final = 30.0
"""Uses that come sooner after another are kept with a later one."""


class UseRecords(Protocol):
    def all_uses(self) -> Iterator[tuple[str, Uses]]: ...

    def keep_uses(self, model: str, uses: Uses) -> None: ...


class Core(Protocol):
    @property
    def models(self) -> dict[str, ModelState]: ...

    def remember(self, model: str, history: History) -> None: ...


class Histories(Witness):
    """Between the core and the records."""

    def __init__(self, core: Core, records: UseRecords, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._core = core
        self._records = records
        self._clock = clock
        self._kept_at: dict[str, float] = {}

    def restore(self, models: Collection[str]) -> None:
        """Give the core what is known of these models. Before its first event."""
        for model, uses in self._records.all_uses():
            if model in models:
                age_s = max(0.0, self._clock.now().timestamp() - uses.used_at)
                self._core.remember(
                    model, History(uses.uses, self._clock.monotonic() - age_s, tuple(uses.gaps_s))
                )

    def used(self, model: str) -> None:
        now = self._clock.monotonic()
        known = self._core.models.get(model)
        if known is None or now < self._kept_at.get(model, -math.inf) + KEEP_EVERY_S:
            return
        self._kept_at[model] = now
        history = known.history
        used_at = self._clock.now().timestamp() - (now - history.used_at_s)
        self._records.keep_uses(model, Uses(history.uses, used_at, history.gaps_s))
