"""What all policies of one run are given: the same models with the same requests."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ekiben.fleet.simulation.trace import Trace

SMALLEST_BYTES: Final = 0.3e9
LARGEST_BYTES: Final = 30e9
START_S: Final = 2.0
LOAD_BYTES_PER_S: Final = 1.5e9
SERVICE_S: Final = 2.0
"""How long a request keeps its model busy."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model and the moments, ascending, at which it is asked for."""

    name: str
    size_bytes: int
    cold_cost_s: float
    arrivals_s: Sequence[float]

    def next_arrival_s(self, now: float) -> float:
        """For those who may know the future; infinity when it is never used again."""
        position = bisect_right(self.arrivals_s, now)
        return self.arrivals_s[position] if position < len(self.arrivals_s) else math.inf


@dataclass(frozen=True, slots=True)
class Scenario:
    """Models, and when the books are closed."""

    models: tuple[Model, ...]
    end_s: float
    service_s: float = SERVICE_S

    @property
    def requests(self) -> int:
        return sum(len(model.arrivals_s) for model in self.models)

    def by_time(self) -> list[tuple[float, int]]:
        """All arrivals in order, each with the position of its model."""
        return sorted((at, index) for index, model in enumerate(self.models) for at in model.arrivals_s)


def draw_scenario(trace: Trace, *, models: int, most_requests: int, seed: int) -> Scenario:
    """Streams become models with sizes spread evenly over the orders of magnitude. Raises ConfigError."""
    rng = random.Random(seed)
    drawn = tuple(
        _model(name, arrivals_s, rng)
        for name, arrivals_s in trace.streams(models, most_requests=most_requests, rng=rng).items()
    )
    last_s = max((model.arrivals_s[-1] for model in drawn if model.arrivals_s), default=0.0)
    return Scenario(drawn, end_s=last_s + SERVICE_S)


def _model(name: str, arrivals_s: Sequence[float], rng: random.Random) -> Model:
    size_bytes = round(SMALLEST_BYTES * (LARGEST_BYTES / SMALLEST_BYTES) ** rng.random())
    return Model(name, size_bytes, START_S + size_bytes / LOAD_BYTES_PER_S, arrivals_s)
