"""The tables as the code expects them, and the revisions that led there.

The migrations make the tables; a test compares the two. `HEAD` lets an up-to-date database be opened
without importing the migration tool.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")
"""All that this version knows, oldest first."""
HEAD: Final = REVISIONS[-1]


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times, also where the database keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA: Final = MetaData()

MODELS: Final = Table(
    "models",
    METADATA,
    Column("name", String(128), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)


def _run_columns() -> list[Column[str]]:
    """The key of one way to run a model; see `ekiben.store.records.Run`."""
    return [
        Column("model", String(128), primary_key=True),
        Column("engine", String(128), primary_key=True),
        Column("options", String(32), primary_key=True),
        Column("device", String(32), primary_key=True),
    ]


NEEDS: Final = Table(
    "needs",
    METADATA,
    *_run_columns(),
    Column("peak", Text, nullable=False),
    Column("floor", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

STARTS: Final = Table(
    "starts",
    METADATA,
    *_run_columns(),
    Column("stages_s", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

HISTORIES: Final = Table(
    "histories",
    METADATA,
    Column("model", String(128), primary_key=True),
    Column("uses", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    Column("gaps_s", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

ARRIVALS: Final = Table(
    "arrivals",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("model", String(128), nullable=False),
)

ALIASES: Final = Table(
    "aliases",
    METADATA,
    Column("name", String(128), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

RESPONSES: Final = Table(
    "responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("status", String(16), nullable=False, index=True),
    Column("background", Boolean, nullable=False),
    Column("previous_id", String(64)),
    Column("input", Text, nullable=False),
    Column("response", Text, nullable=False),
)

FILES: Final = Table(
    "files",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("expires_at", UtcDateTime, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
)

BATCHES: Final = Table(
    "batches",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("status", String(16), nullable=False, index=True),
    Column("input_id", String(64), nullable=False),
    Column("output_id", String(64), nullable=False),
    Column("error_id", String(64), nullable=False),
    Column("keep_s", Integer),
    Column("batch", Text, nullable=False),
)
