"""Batches of requests, as rows. What is in the JSON, and what has been answered so far, is not known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import and_, insert, or_, select, update

from ekiben.store.database import Database
from ekiben.store.files import StoredFile
from ekiben.store.schema import BATCHES, FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    id: str
    created_at: datetime
    status: str
    input_id: str
    output_id: str
    """Of the file of answers, also while there is no such file yet."""
    error_id: str
    keep_s: int | None
    """How long the files of answers are kept; None: until they are deleted."""
    batch: str
    """A JSON object: the batch as it was last told."""


class BatchStore:
    """The table `batches`. Methods block, are one transaction each, and raise DatabaseFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, batch: StoredBatch) -> None:
        """On the disk when this returns."""
        with self._database.writing() as connection:
            connection.execute(insert(BATCHES).values(**asdict(batch)))

    def get(self, batch_id: str) -> StoredBatch | None:
        """One of them."""
        with self._database.reading() as connection:
            row = connection.execute(select(BATCHES).where(BATCHES.c.id == batch_id)).mappings().first()
        return None if row is None else StoredBatch(**row)

    def page(self, *, limit: int, after: StoredBatch | None) -> list[StoredBatch]:
        """At most `limit` of them, the newest first."""
        query = select(BATCHES).order_by(BATCHES.c.created_at.desc(), BATCHES.c.id.desc()).limit(limit)
        if after is not None:
            made, name = BATCHES.c.created_at, BATCHES.c.id
            earlier = and_(made == after.created_at, name < after.id)
            query = query.where(or_(made < after.created_at, earlier))
        with self._database.reading() as connection:
            return [StoredBatch(**row) for row in connection.execute(query).mappings()]

    def with_status(self, statuses: Sequence[str]) -> list[StoredBatch]:
        """All that are in one of these states, the oldest first."""
        query = select(BATCHES).where(BATCHES.c.status.in_(statuses)).order_by(BATCHES.c.created_at)
        with self._database.reading() as connection:
            return [StoredBatch(**row) for row in connection.execute(query).mappings()]

    def settle(self, batch_id: str, *, status: str, batch: str, files: Sequence[StoredFile] = ()) -> None:
        """Change one, and let files of its answers be there from now on: both, or neither."""
        with self._database.writing() as connection:
            connection.execute(
                update(BATCHES).where(BATCHES.c.id == batch_id).values(status=status, batch=batch)
            )
            for file in files:
                connection.execute(insert(FILES).values(**asdict(file)))
