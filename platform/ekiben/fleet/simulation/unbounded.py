"""Keep-alive where memory is paid for, not capped: nobody has to go for somebody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from ekiben.fleet.policy.history import History
from ekiben.fleet.simulation.outcome import Outcome
from ekiben.fleet.simulation.scenario import Model, Scenario


@dataclass(frozen=True, slots=True)
class Stay:
    """What happens to a model from the end of its last request on, unless another comes before."""

    until_s: float
    """It is unloaded after so long."""
    away_until_s: float = 0.0
    """If not 0, it is unloaded at once, and its load begins again after so long."""


KeepAlive: TypeAlias = Callable[[Model, History, float], Stay]
"""The rule for an idle model, given its history and the time at which it became idle."""


def run_unbounded(scenario: Scenario, keep_alive: KeepAlive) -> Outcome:
    """Every model loads when it is asked for and goes when the rule says so."""
    outcome = Outcome(requests=scenario.requests)
    lives = [_Life(model, scenario.service_s, outcome) for model in scenario.models]
    for now, index in scenario.by_time():  # all together: a rule may learn from one model about others
        lives[index].arrive(now, keep_alive)
    for life in lives:
        life.close(scenario.end_s)
    return outcome


@dataclass(slots=True)
class _Life:
    """One model from its first request to the end."""

    model: Model
    service_s: float
    outcome: Outcome
    history: History = field(default_factory=History)
    served: int = 0
    loaded_s: float | None = None
    """Since when it holds memory."""
    ready_s: float = 0.0
    idle_s: float = 0.0
    """When its last request ends."""
    stay: Stay | None = None
    """What was said when it became idle; None while it is busy."""

    def arrive(self, now: float, keep_alive: KeepAlive) -> None:
        if self.stay is not None:
            self._idle(self.stay, now)
            self.history = self.history.after_idling(now - self.idle_s)
        self._serve(now)
        self.history = self.history.after_use(now)
        self.served += 1
        upcoming = self.model.arrivals_s[self.served : self.served + 1]
        busy = bool(upcoming) and upcoming[0] <= self.idle_s
        self.stay = None if busy else keep_alive(self.model, self.history, self.idle_s)

    def close(self, end_s: float) -> None:
        if self.stay is not None and end_s > self.idle_s:
            self._idle(self.stay, end_s)
        self._unload(max(end_s, self.idle_s))

    def _idle(self, stay: Stay, now: float) -> None:
        """Catch up with what was done between the end of the last request and now."""
        if stay.away_until_s > 0:
            self._unload(self.idle_s)
            if self.idle_s + stay.away_until_s > now:
                return
            self._load(self.idle_s + stay.away_until_s)
        if self.idle_s + stay.until_s < now:
            self._unload(self.idle_s + stay.until_s)

    def _serve(self, now: float) -> None:
        if self.loaded_s is None:
            self._load(now)
        if self.ready_s > now:
            self.outcome.waits_s.append(self.ready_s - now)
        self.idle_s = max(self.ready_s, now) + self.service_s

    def _load(self, now: float) -> None:
        self.loaded_s = now
        self.ready_s = now + self.model.cold_cost_s
        self.outcome.loads += 1

    def _unload(self, now: float) -> None:
        if self.loaded_s is not None:
            self.outcome.byte_seconds += self.model.size_bytes * (now - self.loaded_s)
            self.loaded_s = None
