"""Responses that clients may come back to, as rows. What is in the JSON is not known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, insert, select, update

from ekiben.store.database import Database
from ekiben.store.schema import RESPONSES

MAX_CHAIN: Final = 10_000
"""Turns of one conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    id: str
    created_at: datetime
    status: str
    background: bool
    previous_id: str | None
    input: str
    """A JSON list: the items that came with this request, without those of earlier ones."""
    response: str
    """A JSON object."""


class ResponseStore:
    """The table `responses`. Methods block, are one transaction each, and raise DatabaseFailed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, response: StoredResponse) -> None:
        """Insert it, or replace the one with its id. On the disk when this returns."""
        row = asdict(response)
        with self._database.writing() as connection:
            connection.execute(delete(RESPONSES).where(RESPONSES.c.id == response.id))
            connection.execute(insert(RESPONSES).values(**row))

    def get(self, response_id: str) -> StoredResponse | None:
        """One of them."""
        with self._database.reading() as connection:
            row = (
                connection.execute(select(RESPONSES).where(RESPONSES.c.id == response_id)).mappings().first()
            )
        return None if row is None else StoredResponse(**row)

    def chain(self, response_id: str) -> list[StoredResponse]:
        """The response with those that it goes on from, the oldest first.

        Ends at one whose predecessor is not there any more: the first entry has a `previous_id` then.
        """
        chain: list[StoredResponse] = []
        wanted: str | None = response_id
        with self._database.reading() as connection:
            while wanted is not None and len(chain) < MAX_CHAIN:
                query = select(RESPONSES).where(RESPONSES.c.id == wanted)
                row = connection.execute(query).mappings().first()
                if row is None:
                    break
                chain.append(StoredResponse(**row))
                wanted = chain[-1].previous_id
        return chain[::-1]

    def delete(self, response_id: str) -> bool:
        """Whether there was such a response. Gone from the disk when this returns."""
        with self._database.writing() as connection:
            found = connection.execute(delete(RESPONSES).where(RESPONSES.c.id == response_id))
            return found.rowcount > 0

    def with_status(self, statuses: Sequence[str]) -> list[StoredResponse]:
        """All that are in one of these states."""
        with self._database.reading() as connection:
            rows = connection.execute(select(RESPONSES).where(RESPONSES.c.status.in_(statuses)))
            return [StoredResponse(**row) for row in rows.mappings()]

    def settle(self, response_id: str, *, status: str, response: str) -> None:
        """Change one that is there; nothing happens to one that was deleted."""
        with self._database.writing() as connection:
            connection.execute(
                update(RESPONSES)
                .where(RESPONSES.c.id == response_id)
                .values(status=status, response=response)
            )

    def prune(self, before: datetime) -> int:
        """Forget what is older. How many that were."""
        with self._database.writing() as connection:
            return connection.execute(delete(RESPONSES).where(RESPONSES.c.created_at < before)).rowcount
