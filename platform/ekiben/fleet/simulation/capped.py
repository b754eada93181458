"""Eviction where memory is capped: nobody leaves before somebody else needs the room."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ekiben.contract.policy import Resident
from ekiben.fleet.decisions.ledger import HOST
from ekiben.fleet.policy.history import History
from ekiben.fleet.policy.victims import victims
from ekiben.fleet.simulation.outcome import Outcome
from ekiben.fleet.simulation.scenario import Model, Scenario

Standing: TypeAlias = Callable[[Resident, Model, float], Any]
"""What keeping a resident is worth now; the model is there for those who may know its future."""


def run_capped(scenario: Scenario, worth: Standing, *, memory_bytes: int) -> Outcome:
    """Requests for a model that is not there wait for its load, and for room if all others are busy."""
    memory = _Memory(scenario, worth, memory_bytes)
    for now, index in scenario.by_time():
        memory.arrive(now, memory.places[index])
    return memory.close(scenario.end_s)


@dataclass(slots=True, eq=False)
class _Place:
    """One model, in memory or not."""

    model: Model
    history: History = field(default_factory=History)
    loaded_s: float | None = None
    ready_s: float = 0.0
    idle_s: float = 0.0
    """When its last request ends."""
    waiting_s: list[float] = field(default_factory=list)
    """Arrivals of requests for which there is no room yet."""


class _Memory:
    def __init__(self, scenario: Scenario, worth: Standing, memory_bytes: int) -> None:
        self.places = [_Place(model) for model in scenario.models]
        self._service_s = scenario.service_s
        self._worth = worth
        self._memory_bytes = memory_bytes
        self._free_bytes = memory_bytes
        self._residents: dict[str, _Place] = {}
        self._queue: list[_Place] = []
        self._room_s = math.inf
        """When somebody may have become idle for the queue."""
        self._outcome = Outcome(requests=scenario.requests)

    def arrive(self, now: float, place: _Place) -> None:
        while self._room_s <= now:
            self._serve_queue(self._room_s)
        if 0 < place.idle_s < now and not place.waiting_s:
            place.history = place.history.after_idling(now - place.idle_s)
        place.history = place.history.after_use(now)
        if place.loaded_s is not None:
            self._serve(place, now)
        elif place.model.size_bytes > self._memory_bytes:
            self._outcome.refused += 1
        else:
            place.waiting_s.append(now)
            if len(place.waiting_s) == 1 and not self._load(place, now):
                self._queue.append(place)
                self._room_s = min(self._room_s, self._next_idle_s(now))

    def close(self, end_s: float) -> Outcome:
        while self._room_s < math.inf:
            self._serve_queue(self._room_s)
        for place in list(self._residents.values()):
            self._unload(place, max(end_s, place.idle_s))
        return self._outcome

    def _serve_queue(self, now: float) -> None:
        self._queue = [place for place in self._queue if not self._load(place, now)]
        self._room_s = self._next_idle_s(now) if self._queue else math.inf

    def _next_idle_s(self, now: float) -> float:
        return min((p.idle_s for p in self._residents.values() if p.idle_s > now), default=math.inf)

    def _serve(self, place: _Place, now: float) -> None:
        if place.ready_s > now:
            self._outcome.waits_s.append(place.ready_s - now)
        place.idle_s = max(place.ready_s, now) + self._service_s

    def _load(self, place: _Place, now: float) -> bool:
        """Make room and load, if the others let it."""
        plan = victims(
            [self._resident(p, now) for p in self._residents.values() if p.idle_s <= now],
            {HOST: place.model.size_bytes - self._free_bytes},
            memory=lambda r: {HOST: r.size_bytes},
            worth=lambda r: (self._worth(r, self._residents[r.name].model, now), r.name),
        )
        if plan is None:
            return False
        for victim in plan:
            self._unload(self._residents[victim.name], now)
        self._residents[place.model.name] = place
        self._free_bytes -= place.model.size_bytes
        self._outcome.loads += 1
        place.loaded_s = now
        place.ready_s = now + place.model.cold_cost_s
        for arrival_s in place.waiting_s:
            self._outcome.waits_s.append(place.ready_s - arrival_s)
        place.idle_s = place.ready_s + self._service_s
        place.waiting_s.clear()
        return True

    def _unload(self, place: _Place, now: float) -> None:
        assert place.loaded_s is not None
        self._outcome.byte_seconds += place.model.size_bytes * (now - place.loaded_s)
        self._free_bytes += place.model.size_bytes
        place.loaded_s = None
        del self._residents[place.model.name]

    def _resident(self, place: _Place, now: float) -> Resident:
        return Resident(
            name=place.model.name,
            size_bytes=place.model.size_bytes,
            cold_cost_s=place.model.cold_cost_s,
            rate=place.history.rate(now),
            last_use_s=place.idle_s,
            idle_s=now - place.idle_s,
            gaps_s=place.history.gaps_s,
        )
