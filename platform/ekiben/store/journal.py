"""Rows that are written by and by, so that nobody waits for the disk.

For what the platform has learned, and can learn again: not for what a user would miss. A batch is one
transaction; a crash costs the last moment's rows and leaves none half written.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Table, and_, delete, func, insert, select

from ekiben.errors import ConfigError
from ekiben.store.database import Database

logger = logging.getLogger(__name__)

Row: TypeAlias = Mapping[str, Any]

PAUSE_S: Final = 1.0
"""Rows of so long a time go into one transaction."""
RETRY_S: Final = 30.0
"""A database that fails is left alone for so long. What waits is kept, the newest of each row."""
CLOSE_S: Final = 15.0


class Journal:
    """Writes in a thread of its own. Its methods are for one thread, and never block but for `close`."""

    def __init__(self, database: Database, *, pause_s: float = PAUSE_S, retry_s: float = RETRY_S) -> None:
        self._database = database
        self._pause_s = pause_s
        self._retry_s = retry_s
        self._guard = threading.Lock()  # held for no longer than it takes to hand rows over
        self._rows: dict[tuple[Table, tuple[str, ...]], Row | None] = {}
        self._added: dict[Table, deque[Row]] = {}
        self._work = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._thread: threading.Thread | None = None

    def put(self, table: Table, key: tuple[str, ...], row: Row | None) -> None:
        """Let this be the row of the key, given as the primary key's columns; None: let there be none."""
        with self._guard:
            self._rows[table, key] = row
        self._wake()

    def append(self, table: Table, row: Row, *, limit: int) -> None:
        """Add a row to a table of numbered ones, and keep the last `limit`."""
        with self._guard:
            self._added.setdefault(table, deque(maxlen=limit)).append(row)
        self._wake()

    def close(self) -> None:
        """Write what is left, also to a database that failed before. Blocks."""
        self._closing.set()
        self._work.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        self._work.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._work.wait()
            if not self._closing.wait(self._retry_s if self._failing else self._pause_s):
                self._work.clear()
                self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._guard:
            rows, self._rows = self._rows, {}
            added, self._added = self._added, {}
        if not rows and not added:
            return
        try:
            with self._database.writing() as connection:
                _write(connection, rows, added)
        except ConfigError as error:
            self._keep(rows, added)
            if not self._failing:
                logger.warning("what is learned of models is not kept for now: %s", error.message)
            self._failing = True
            self._work.set()
        else:
            self._failing = False

    def _keep(
        self, rows: dict[tuple[Table, tuple[str, ...]], Row | None], added: dict[Table, deque[Row]]
    ) -> None:
        """For the next time, unless there is something newer."""
        with self._guard:
            self._rows = rows | self._rows
            for table, older in added.items():
                older.extend(self._added.get(table, ()))
                self._added[table] = older


def _write(
    connection: Connection,
    rows: Mapping[tuple[Table, tuple[str, ...]], Row | None],
    added: Mapping[Table, deque[Row]],
) -> None:
    for (table, key), row in rows.items():
        columns = list(table.primary_key.columns)
        place = dict(zip((column.name for column in columns), key, strict=True))
        connection.execute(delete(table).where(and_(*(c == place[c.name] for c in columns))))
        if row is not None:
            connection.execute(insert(table).values(**place, **row))
    for table, several in added.items():
        connection.execute(insert(table), [dict(row) for row in several])
        newest = connection.execute(select(func.max(table.c.id))).scalar() or 0
        connection.execute(delete(table).where(table.c.id <= newest - (several.maxlen or 0)))
