"""The names that users gave to models, as rows. What they stand for is not looked at here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from ekiben.store.database import Database
from ekiben.store.schema import ALIASES


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAlias:
    name: str
    model: str
    """What it stands for: a model's name, or `model:adapter`."""
    created_at: datetime


class AliasStore:
    """The table `aliases`. Every method is one transaction and raises ConfigError when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[StoredAlias]:
        """Every row, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(ALIASES).order_by(ALIASES.c.name)).mappings().all()
        return [StoredAlias(**row) for row in rows]

    def put(self, name: str, *, model: str, now: datetime) -> None:
        """Insert the alias or turn it to another model. On the disk when this returns."""
        with self._database.writing() as connection:
            changed = connection.execute(update(ALIASES).where(ALIASES.c.name == name).values(model=model))
            if changed.rowcount == 0:
                connection.execute(insert(ALIASES).values(name=name, model=model, created_at=now))

    def delete(self, name: str) -> bool:
        """Whether there was such an alias. Gone from the disk when this returns."""
        with self._database.writing() as connection:
            return connection.execute(delete(ALIASES).where(ALIASES.c.name == name)).rowcount > 0
