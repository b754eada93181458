"""Responses that are kept: their items found again, their conversations, and how long they stay.

The database is spoken to in threads, so every method waits for the disk and none blocks the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import msgspec

from ekiben.clock import Clock
from ekiben.errors import ConfigError, InvalidRequest, NotFound
from ekiben.gateway.responses.items import as_items, is_reference
from ekiben.gateway.responses.recorder import Keep
from ekiben.responses import failed, response_of_item
from ekiben.store.responses import ResponseStore, StoredResponse

logger = logging.getLogger(__name__)

PRUNE_EVERY_S: Final = 3600.0
_UNDER_WAY: Final = ("queued", "in_progress")
_CONTINUED: Final = ("completed", "incomplete")


class Archive:
    """All that is kept."""

    def __init__(self, store: ResponseStore, clock: Clock, *, days: float) -> None:
        """`days`: how long; 0: until they are deleted."""
        self._store = store
        self._clock = clock
        self._days = days

    async def record(self, response_id: str) -> StoredResponse:
        """Raises NotFound."""
        record = await asyncio.to_thread(self._store.get, response_id)
        if record is None:
            raise _unknown(response_id)
        return record

    async def put(self, record: StoredResponse) -> None:
        """On the disk when this returns."""
        await asyncio.to_thread(self._store.put, record)

    async def settle(self, response_id: str, status: str, response: bytes) -> None:
        """How one that was begun has ended; on the disk when this returns."""
        await asyncio.to_thread(self._store.settle, response_id, status=status, response=response.decode())

    def keeper(self, record: StoredResponse) -> Keep:
        """Keeps the record once its response is there."""

        async def keep(status: str, response: bytes) -> None:
            await self.put(replace(record, status=status, response=response.decode()))

        return keep

    async def delete(self, response_id: str) -> None:
        """Raises NotFound."""
        if not await asyncio.to_thread(self._store.delete, response_id):
            raise _unknown(response_id)

    # Items

    async def own_items(self, given: Any) -> list[Any]:
        """What came with a request, with the items that it only names. Raises NotFound."""
        return [
            await self._item(item["id"], index) if is_reference(item) else item
            for index, item in enumerate(as_items(given))
        ]

    async def context(self, previous_id: str) -> list[dict[str, Any]]:
        """What the model has seen and said up to a response, that included. Raises InvalidRequest."""
        chain = await self._chain(previous_id)
        if chain[-1].status not in _CONTINUED:
            raise InvalidRequest(
                f"the response {previous_id!r} is {chain[-1].status}: nothing can go on from it",
                param="previous_response_id",
            )
        return _items_of(*chain)

    async def input_items(self, response_id: str) -> list[dict[str, Any]]:
        """All that the model was given for a response. Raises NotFound and InvalidRequest."""
        record = await self.record(response_id)
        earlier = [] if record.previous_id is None else _items_of(*await self._chain(record.previous_id))
        items = [*earlier, *msgspec.json.decode(record.input)]
        return [{"status": "completed", **item} for item in items]

    async def _item(self, item_id: str, index: int) -> Any:
        response_id = response_of_item(item_id)
        record = None if response_id is None else await asyncio.to_thread(self._store.get, response_id)
        for item in [] if record is None else _items_of(record):
            if item.get("id") == item_id:
                return item
        raise NotFound(f"there is no item {item_id[:100]!r}", param=f"input.{index}.id")

    async def _chain(self, previous_id: str) -> list[StoredResponse]:
        chain = await asyncio.to_thread(self._store.chain, previous_id)
        if not chain or chain[0].previous_id is not None:
            missing = chain[0].previous_id if chain else previous_id
            raise InvalidRequest(
                f"there is no response {str(missing)[:100]!r} to go on from: it was deleted, or never kept",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return chain

    # Time

    async def recover(self, error: Mapping[str, Any]) -> None:
        """What an earlier platform left unfinished has failed with this error."""
        for record in await asyncio.to_thread(self._store.with_status, _UNDER_WAY):
            response = failed(msgspec.json.decode(record.response), error)
            await self.settle(record.id, "failed", msgspec.json.encode(response))

    async def prune(self) -> None:
        """Forget what is too old, again and again."""
        while self._days:
            try:
                before = self._clock.now() - timedelta(days=self._days)
                await asyncio.to_thread(self._store.prune, before)
            except ConfigError as error:
                logger.warning("old responses cannot be forgotten for now: %s", error.message)
            await asyncio.sleep(PRUNE_EVERY_S)


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"there is no response {response_id[:100]!r}: it was deleted, or never kept")


def _items_of(*chain: StoredResponse) -> list[dict[str, Any]]:
    """Input and output of each."""
    items: list[dict[str, Any]] = []
    for record in chain:
        items += [*msgspec.json.decode(record.input), *msgspec.json.decode(record.response)["output"]]
    return items
