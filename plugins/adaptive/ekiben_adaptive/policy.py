"""GreedyDual with an expected rate for the victims, renewal theory at a moving price for the keep-alive."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from ekiben.contract import Idle, Resident
from ekiben_adaptive.hazard import hazard
from ekiben_adaptive.price import Price
from ekiben_adaptive.renewal import break_even_s, keep_alive_s

MODELS_KEPT: Final = 1000


class Adaptive:
    def __init__(self) -> None:
        self.price = Price()
        self._said: OrderedDict[str, tuple[tuple[float, ...], float]] = OrderedDict()
        """By model: the idle times that were known when it was last asked about, and the answer."""

    def worth(self, resident: Resident) -> float:
        """The waiting that a byte of it is expected to spare."""
        rate = math.sqrt(resident.rate * hazard(resident.gaps_s, idle_s=resident.idle_s))
        return rate * resident.cold_cost_s / max(resident.size_bytes, 1)

    def keep_alive_s(self, idle: Idle) -> float:
        """The time that would have cost least over its past, memory and waiting together."""
        self._learn(idle)
        limit_s = break_even_s(
            size_bytes=idle.size_bytes, cold_cost_s=idle.cold_cost_s, price_bytes=self.price.bytes_per_wait
        )
        stay_s = keep_alive_s(idle.gaps_s, break_even_s=limit_s)
        self._said[idle.name] = idle.gaps_s, stay_s
        if len(self._said) > MODELS_KEPT:
            self._said.popitem(last=False)
        return stay_s

    def _learn(self, idle: Idle) -> None:
        """From the idle time that ended since the model was last asked about."""
        gaps_s, stay_s = self._said.pop(idle.name, (idle.gaps_s, 0.0))
        if idle.gaps_s != gaps_s:
            self.price.book(size_bytes=idle.size_bytes, gap_s=idle.gaps_s[-1], stay_s=stay_s)
