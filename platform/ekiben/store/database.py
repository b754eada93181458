"""One database, opened, migrated and spoken to in short transactions. SQLite by default.

A transaction that ended without an exception is on the disk: it survives `kill -9` and loss of power.
What goes wrong in the database becomes a DatabaseFailed that says what to do; the file is never deleted or
recreated. Which rows there are is the business of the repositories beside this module.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from ekiben.errors import ConfigError, DatabaseFailed
from ekiben.store.schema import HEAD, REVISIONS

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_MS: Final = 5000
_WRITES: Final = "ekiben_writes"
_PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


class Database:
    """An open database at the newest schema. Its methods block, briefly, and any thread may call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{_WRITES: True})

    @classmethod
    def open(cls, url: str | URL) -> Self:
        """Connect, and bring the schema up to date. Raises ConfigError."""
        engine = _engine(url)
        try:
            with _explained(engine.url):
                _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads: one state of the data throughout."""
        with _explained(self._engine.url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write: committed when the block ends, undone when it raises."""
        with _explained(self._engine.url), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._engine.dispose()


def sqlite_url(path: Path) -> URL:
    """The URL of a file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


def _engine(given_url: str | URL) -> Engine:
    try:
        url = make_url(given_url)
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(
            "the database URL is not one: write sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the database {_shown(url)} needs the driver {error.name!r}: install it with pip"
        ) from None
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    """Durable settings, and transactions that really are: Python's own begin too late for DDL."""

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    """Compare the schema's revision with the code's; the migration tool is imported only when needed."""
    with engine.begin() as connection:
        revision = _revision(connection)
    if revision == HEAD:
        return
    if revision is not None and revision not in REVISIONS:
        raise ConfigError(
            f"the database {_shown(engine.url)} was written by a newer version (schema {revision!r}, "
            f"this version knows {HEAD!r}): upgrade, or choose another home with --home"
        )
    from ekiben.store.migrations import upgrade

    with engine.execution_options(**{_WRITES: True}).begin() as connection:
        upgrade(connection)
    logger.info("brought the database from schema %s to %s", revision, HEAD)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: Any = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if revision is None else str(revision)


@contextmanager
def _explained(url: URL) -> Iterator[None]:
    """Errors of the database as DatabaseFailed, with what to do and without a password."""
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise DatabaseFailed(f"the database {_shown(url)} {_diagnosis(reason)}") from error
    except SQLAlchemyError as error:
        reason = " ".join(str(error).split())
        raise DatabaseFailed(f"the database {_shown(url)} failed: {reason}") from error


def _diagnosis(reason: str) -> str:
    known = {
        "not a database": "is damaged: put a backup in its place, or move it away to begin with an empty one",
        "malformed": "is damaged: put a backup in its place, or move it away to begin with an empty one",
        "disk is full": "cannot grow: free some space on its disk",
        "locked": "is locked by another program: end that program",
        "readonly": "cannot be written: mend its permissions",
        "unable to open": "cannot be opened: mend the folder or its permissions",
    }
    advice = next((text for part, text in known.items() if part in reason), "cannot be used")
    return f"{advice} ({reason})"


def _shown(url: URL) -> str:
    """The file's path, or the URL without its password and the parameters that may hold one."""
    if url.get_backend_name() == "sqlite":
        return url.database or "in memory"
    return url.set(query={}).render_as_string(hide_password=True)
