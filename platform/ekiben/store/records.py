"""What the fleet has learned about models: read once, held in memory, written down behind its back.

Reading never touches the disk; writing hands the row to a thread. A database that fails costs what would
have been remembered over a restart, and no request anything. What a record means is not known here.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar

from sqlalchemy import Table, select

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.errors import ConfigError
from ekiben.store.database import Database
from ekiben.store.journal import PAUSE_S, Journal, Row
from ekiben.store.schema import ARRIVALS, HISTORIES, NEEDS, STARTS

logger = logging.getLogger(__name__)

Run: TypeAlias = tuple[str, str, str, str]
"""One way to run a model: model, engine, digest of the options, device."""

MAX_RUNS: Final = 2000
MAX_MODELS: Final = 2000
STARTS_KEPT: Final = 20
"""Of one way to run a model."""
ARRIVALS_KEPT: Final = 20_000

_Key = TypeVar("_Key", bound=tuple[str, ...])
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes by device."""

    peak: Mapping[str, int] = field(default_factory=dict)
    """The most that was measured of a loaded model."""
    floor: Mapping[str, int] = field(default_factory=dict)
    """Less is known not to be enough."""


@dataclass(frozen=True, slots=True)
class Uses:
    """How a model was used; times are seconds of the Unix epoch."""

    uses: float
    used_at: float
    gaps_s: tuple[float, ...] = ()


class Records:
    """All that is remembered. For one thread; no method blocks but `close`."""

    def __init__(self, database: Database, *, clock: Clock = SYSTEM_CLOCK, pause_s: float = PAUSE_S) -> None:
        """Reads everything: blocks for a moment."""
        self._journal = Journal(database, pause_s=pause_s)
        self._needs: _Sheet[Run, Need] = _Sheet(
            NEEDS, self._journal, clock, limit=MAX_RUNS, write=_need_row, read=_need
        )
        self._starts: _Sheet[Run, tuple[Mapping[str, float], ...]] = _Sheet(
            STARTS, self._journal, clock, limit=MAX_RUNS, write=_starts_row, read=_starts
        )
        self._uses: _Sheet[tuple[str], Uses] = _Sheet(
            HISTORIES, self._journal, clock, limit=MAX_MODELS, write=_uses_row, read=_uses
        )
        self._arrivals: deque[tuple[float, str]] = deque(maxlen=ARRIVALS_KEPT)
        try:
            self._read(database)
        except ConfigError as error:
            logger.warning("what was learned of models cannot be read: %s", error.message)

    def _read(self, database: Database) -> None:
        for sheet in (self._needs, self._starts, self._uses):
            sheet.load(database)
        with database.reading() as connection:
            newest = select(ARRIVALS).order_by(ARRIVALS.c.id.desc()).limit(ARRIVALS_KEPT)
            rows = connection.execute(newest).all()
        self._arrivals.extend((row.at, row.model) for row in reversed(rows))

    def need(self, run: Run) -> Need | None:
        """What is known of the memory that a run takes."""
        return self._needs.get(run)

    def keep_need(self, run: Run, need: Need) -> None:
        self._needs.put(run, need)

    def starts(self, run: Run) -> Sequence[Mapping[str, float]]:
        """The last starts, oldest first: seconds by stage."""
        return self._starts.get(run) or ()

    def add_start(self, run: Run, stages_s: Mapping[str, float]) -> None:
        """The oldest makes room."""
        self._starts.put(run, (*self.starts(run), dict(stages_s))[-STARTS_KEPT:])

    def last_run(self, model: str) -> Run | None:
        """How the model was run last, of the ways in which it was started."""
        return next((run for run in self._starts.newest() if run[0] == model), None)

    def uses(self, model: str) -> Uses | None:
        return self._uses.get((model,))

    def all_uses(self) -> Iterator[tuple[str, Uses]]:
        """Every model of which something is known."""
        return ((model, uses) for (model,), uses in self._uses.items())

    def keep_uses(self, model: str, uses: Uses) -> None:
        self._uses.put((model,), uses)

    def arrivals(self) -> Sequence[tuple[float, str]]:
        """The last requests of all models, oldest first: seconds of the Unix epoch, model."""
        return self._arrivals

    def add_arrival(self, model: str, *, at: float) -> None:
        """The oldest makes room."""
        self._arrivals.append((at, model))
        self._journal.append(ARRIVALS, {"at": at, "model": model}, limit=ARRIVALS_KEPT)

    def close(self) -> None:
        """Write what is not written yet. Blocks."""
        self._journal.close()


class _Sheet(Generic[_Key, _Value]):
    """One table as a dictionary; the row that was written longest ago makes room for a new one."""

    def __init__(
        self,
        table: Table,
        journal: Journal,
        clock: Clock,
        *,
        limit: int,
        write: Callable[[_Value], Row],
        read: Callable[[Any], _Value],
    ) -> None:
        self._table = table
        self._journal = journal
        self._clock = clock
        self._limit = limit
        self._write = write
        self._read = read
        self._values: dict[_Key, _Value] = {}

    def load(self, database: Database) -> None:
        columns = [column.name for column in self._table.primary_key.columns]
        with database.reading() as connection:
            rows = connection.execute(select(self._table).order_by(self._table.c.updated_at)).all()
        for row in rows:
            key: Any = tuple(getattr(row, name) for name in columns)
            try:
                self._values[key] = self._read(row)
            except (AttributeError, TypeError, ValueError) as error:
                logger.warning("a row of %s is not understood and is left out: %s", self._table.name, error)

    def get(self, key: _Key) -> _Value | None:
        return self._values.get(key)

    def items(self) -> Iterator[tuple[_Key, _Value]]:
        return iter(self._values.items())

    def newest(self) -> Iterator[_Key]:
        """The keys, the one that was written last first."""
        return reversed(self._values)

    def put(self, key: _Key, value: _Value) -> None:
        self._values.pop(key, None)
        self._values[key] = value
        self._journal.put(self._table, key, {**self._write(value), "updated_at": self._clock.now()})
        if len(self._values) > self._limit:
            oldest = next(iter(self._values))
            del self._values[oldest]
            self._journal.put(self._table, oldest, None)


def _need_row(need: Need) -> Row:
    return {"peak": json.dumps(dict(need.peak)), "floor": json.dumps(dict(need.floor))}


def _need(row: Any) -> Need:
    return Need(_sizes(row.peak), _sizes(row.floor))


def _sizes(text: str) -> dict[str, int]:
    return {str(device): int(size) for device, size in json.loads(text).items()}


def _starts_row(starts: tuple[Mapping[str, float], ...]) -> Row:
    return {"stages_s": json.dumps([dict(stages_s) for stages_s in starts])}


def _starts(row: Any) -> tuple[Mapping[str, float], ...]:
    starts = json.loads(row.stages_s)[-STARTS_KEPT:]
    return tuple({str(stage): float(seconds) for stage, seconds in start.items()} for start in starts)


def _uses_row(uses: Uses) -> Row:
    return {"uses": uses.uses, "used_at": uses.used_at, "gaps_s": json.dumps(uses.gaps_s)}


def _uses(row: Any) -> Uses:
    return Uses(row.uses, row.used_at, tuple(float(gap) for gap in json.loads(row.gaps_s)))
