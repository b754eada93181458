"""The rules that the fleet's own are measured against. Nothing of this decides over a real model."""

from __future__ import annotations

import math
from itertools import accumulate
from statistics import median
from typing import Final

from ekiben.contract.policy import Resident
from ekiben.fleet.policy.history import History
from ekiben.fleet.simulation.scenario import Model
from ekiben.fleet.simulation.unbounded import KeepAlive, Stay

OLLAMA_KEEP_ALIVE_S: Final = 300.0


def recency(resident: Resident, model: Model, now: float) -> float:
    """LRU: the longest unused goes first."""
    return resident.last_use_s


def shortest_keep_alive(resident: Resident, model: Model, now: float) -> tuple[float, str]:
    """Ollama's victim: the shortest keep-alive, which all have alike, then the alphabet."""
    return OLLAMA_KEEP_ALIVE_S, resident.name


def clairvoyant_worth(resident: Resident, model: Model, now: float) -> float:
    """Belady's, weighted: seconds spared per byte, over the time until the model is really used again."""
    return resident.cold_cost_s / resident.size_bytes / max(model.next_arrival_s(now) - now, 1e-9)


def clairvoyant_keep_alive(price_bytes: float) -> KeepAlive:
    """Stays exactly if the idle time to come is cheaper to hold through than a cold start."""

    def rule(model: Model, history: History, idle_s: float) -> Stay:
        limit_s = price_bytes * model.cold_cost_s / model.size_bytes
        gap_s = model.next_arrival_s(idle_s) - idle_s
        return Stay(gap_s if gap_s <= limit_s else 0.0)

    return rule


class HybridHistogram:
    """The published keep-alive of a large function service (Shahrad et al., 2020), with prewarming.

    Where it would fit an ARIMA model, to idle times beyond its range, this takes their median.
    """

    RANGE_MINUTES: Final = 240
    REPRESENTATIVE_CV: Final = 2.0

    def __init__(self) -> None:
        self._idle_s: dict[str, float] = {}
        self._gaps: dict[str, _IdleTimes] = {}

    def __call__(self, model: Model, history: History, idle_s: float) -> Stay:
        """Histories forget short idle times, and this wants them all: it looks them up in the past."""
        gaps = self._gaps.setdefault(model.name, _IdleTimes())
        if model.name in self._idle_s:
            last_s = self._idle_s[model.name]
            gaps.add(model.next_arrival_s(last_s) - last_s)
        self._idle_s[model.name] = idle_s
        return gaps.stay()


class _IdleTimes:
    def __init__(self) -> None:
        self._bins = [0] * HybridHistogram.RANGE_MINUTES
        self._count = 0
        self._squares = 0
        self._beyond_s: list[float] = []

    def add(self, gap_s: float) -> None:
        minute = int(gap_s // 60)
        if minute >= len(self._bins):
            self._beyond_s.append(gap_s)
            return
        self._squares += 2 * self._bins[minute] + 1
        self._bins[minute] += 1
        self._count += 1

    def stay(self) -> Stay:
        if self._beyond_s and len(self._beyond_s) >= self._count:
            expected_s = median(self._beyond_s)
            return Stay(until_s=1.15 * expected_s, away_until_s=0.85 * expected_s)
        if self._variation() < HybridHistogram.REPRESENTATIVE_CV:
            return Stay(until_s=60.0 * len(self._bins))
        cumulated = list(accumulate(self._bins))
        head = _first_at_least(cumulated, 0.05 * self._count)
        tail = _first_at_least(cumulated, 0.99 * self._count)
        return Stay(until_s=1.1 * 60 * (tail + 1), away_until_s=0.9 * 60 * head)

    def _variation(self) -> float:
        """The coefficient of variation of the bins."""
        mean = self._count / len(self._bins)
        if mean == 0:
            return 0.0
        return math.sqrt(max(0.0, self._squares / len(self._bins) - mean * mean)) / mean


def _first_at_least(cumulated: list[int], level: float) -> int:
    return next(position for position, value in enumerate(cumulated) if value >= level)
