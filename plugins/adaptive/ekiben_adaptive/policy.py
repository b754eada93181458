"""GreedyDual with a decayed rate for the victims, renewal theory for the keep-alive."""

from __future__ import annotations

from ekiben.contract import Idle, Resident
from ekiben_adaptive.renewal import break_even_s, keep_alive_s


class Adaptive:
    def worth(self, resident: Resident) -> float:
        """The waiting that a byte of it is expected to spare."""
        return resident.rate * resident.cold_cost_s / max(resident.size_bytes, 1)

    def keep_alive_s(self, idle: Idle) -> float:
        """The time that would have cost least over its past, memory and waiting together."""
        limit_s = break_even_s(size_bytes=idle.size_bytes, cold_cost_s=idle.cold_cost_s)
        return keep_alive_s(idle.gaps_s, break_even_s=limit_s)
