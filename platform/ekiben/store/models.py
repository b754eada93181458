"""The models that users added, as rows. What a spec means is not known here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from ekiben.store.database import Database
from ekiben.store.schema import MODELS


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    name: str
    spec: str
    """JSON."""
    created_at: datetime
    updated_at: datetime


class ModelStore:
    """The table `models`. Every method is one transaction and raises ConfigError when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[StoredModel]:
        """Every row, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(MODELS).order_by(MODELS.c.name)).mappings().all()
        return [StoredModel(**row) for row in rows]

    def put(self, name: str, *, spec: str, now: datetime) -> None:
        """Insert the model or replace its spec. On the disk when this returns."""
        with self._database.writing() as connection:
            changed = connection.execute(
                update(MODELS).where(MODELS.c.name == name).values(spec=spec, updated_at=now)
            )
            if changed.rowcount == 0:
                connection.execute(
                    insert(MODELS).values(name=name, spec=spec, created_at=now, updated_at=now)
                )

    def delete(self, name: str) -> bool:
        """Whether there was such a model. Gone from the disk when this returns."""
        with self._database.writing() as connection:
            return connection.execute(delete(MODELS).where(MODELS.c.name == name)).rowcount > 0
