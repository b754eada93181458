"""The files that are kept for clients, as rows. Where their bytes are is not known here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select

from ekiben.store.database import Database
from ekiben.store.schema import FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    id: str
    created_at: datetime
    expires_at: datetime | None
    """None: it stays until it is deleted."""
    size_bytes: int
    filename: str
    """As the client wrote it: shown, and never part of a path."""
    purpose: str


class FileStore:
    """The table `files`. Methods block, are one transaction each, and raise DatabaseFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, file: StoredFile) -> None:
        """On the disk when this returns."""
        with self._database.writing() as connection:
            connection.execute(insert(FILES).values(**asdict(file)))

    def get(self, file_id: str, *, now: datetime) -> StoredFile | None:
        """One that has not expired."""
        query = select(FILES).where(FILES.c.id == file_id, _alive(now))
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else StoredFile(**row)

    def page(
        self, *, now: datetime, limit: int, after: StoredFile | None, descending: bool, purpose: str | None
    ) -> list[StoredFile]:
        """At most `limit` of those that have not expired, by the time they were made."""
        query = select(FILES).where(_alive(now)).limit(limit)
        if purpose is not None:
            query = query.where(FILES.c.purpose == purpose)
        if after is not None:
            query = query.where(_behind(after, descending=descending))
        columns = (FILES.c.created_at, FILES.c.id)
        query = query.order_by(*(column.desc() if descending else column.asc() for column in columns))
        with self._database.reading() as connection:
            return [StoredFile(**row) for row in connection.execute(query).mappings()]

    def delete(self, file_id: str) -> bool:
        """Whether there was such a file. Gone from the disk when this returns."""
        with self._database.writing() as connection:
            return connection.execute(delete(FILES).where(FILES.c.id == file_id)).rowcount > 0

    def held_bytes(self) -> int:
        """What all files have together."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.sum(FILES.c.size_bytes))).scalar() or 0)

    def ids(self) -> set[str]:
        """Of all files, expired ones too."""
        with self._database.reading() as connection:
            return set(connection.execute(select(FILES.c.id)).scalars())

    def expired(self, now: datetime, *, spared: Collection[str]) -> list[StoredFile]:
        """Those whose time is over, but for these."""
        with self._database.reading() as connection:
            rows = connection.execute(select(FILES).where(FILES.c.expires_at <= now)).mappings()
            return [StoredFile(**row) for row in rows if row["id"] not in spared]


def _alive(now: datetime) -> ColumnElement[bool]:
    return or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > now)


def _behind(file: StoredFile, *, descending: bool) -> ColumnElement[bool]:
    made, name = FILES.c.created_at, FILES.c.id
    if descending:
        return or_(made < file.created_at, and_(made == file.created_at, name < file.id))
    return or_(made > file.created_at, and_(made == file.created_at, name > file.id))
