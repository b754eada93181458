"""The tables as the code expects them, and the revisions that led there.

The migrations make the tables; a test compares the two. `HEAD` lets an up-to-date database be opened
without importing the migration tool.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Column, DateTime, Dialect, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator

REVISIONS: Final = ("0001",)
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
