"""LRU and a fixed time: what most servers do, and what others are measured against."""

from __future__ import annotations

from typing import Final

from ekiben.contract import Idle, Resident

TTL_S: Final = 300.0


class Classic:
    def worth(self, resident: Resident) -> float:
        """The longest unused goes first."""
        return resident.last_use_s

    def keep_alive_s(self, idle: Idle) -> float:
        """The same for all."""
        return TTL_S
