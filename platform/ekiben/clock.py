"""The only door to time, so that everything which depends on it can be tested with a fake."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Protocol


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


class LocalZone(tzinfo):
    """The zone of this machine with all its changes of offset, past and to come.

    `datetime.astimezone()` gives the offset of one moment, which is wrong on the other side of a change.
    """

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None  # nobody asks, and the system does not tell

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        moment = dt.replace(tzinfo=UTC)
        naive = moment.astimezone().replace(tzinfo=None)
        # A time that the clock shows twice: which of the two is it?
        fold = 0 if naive.astimezone(UTC) == moment else 1
        return naive.replace(tzinfo=self, fold=fold)


SYSTEM_CLOCK = SystemClock()
LOCAL_ZONE: Final = LocalZone()
