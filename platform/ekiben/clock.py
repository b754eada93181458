"""The only door to time, so that everything which depends on it can be tested with a fake."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds for durations and deadlines, wall time only for what is shown or stored."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back, unaffected by changes of the system time."""

    def now(self) -> datetime:
        """Aware UTC wall time."""


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)


SYSTEM_CLOCK = SystemClock()
