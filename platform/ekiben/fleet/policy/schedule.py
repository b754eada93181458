"""When the cron lines of a model are due: a pure function of the lines, a time and its zone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from cronsim import CronSim


def next_due(lines: Iterable[str], after: datetime) -> datetime | None:
    """The first moment after `after`, in UTC, at which one of the lines is due; None if that never comes.

    Lines are read in the zone of `after`, as Debian's cron reads them: a time that the clock skips in
    spring is due right after the gap, one that it shows twice in autumn is due the first time; lines with
    a `*` for the minute or the hour follow the elapsed time instead.
    """
    moments = (next(CronSim(line, after), None) for line in lines)
    return min((moment.astimezone(UTC) for moment in moments if moment is not None), default=None)
