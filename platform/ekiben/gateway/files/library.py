"""The files that are kept: their rows and their bytes, how much there may be, and when they go.

A file is there once its bytes are on the disk and its row after them, so `kill -9` leaves at most bytes
without a row, which the next start removes. The disk and the database are spoken to in threads. What is in
a file is not known here. Other parts may keep what they make as files of a purpose of their own, with
`Draft`s from `begin`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Final

from ekiben.clock import Clock
from ekiben.errors import ConfigError, InvalidRequest, NotFound, RequestTooLarge, StorageFull
from ekiben.store.blobs import Blobs, Draft, new_id
from ekiben.store.files import FileStore, StoredFile

logger = logging.getLogger(__name__)

SWEEP_EVERY_S: Final = 60.0
PREFIX: Final = "file-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much may be kept, in bytes."""

    file_bytes: int
    all_bytes: int


class Library:
    """`startup` before anything else. For one loop."""

    def __init__(self, store: FileStore, blobs: Blobs, *, room: Room, clock: Clock) -> None:
        self.room = room
        self.blobs = blobs
        self._store = store
        self._clock = clock
        self._held_bytes = 0
        self._read_by: Counter[str] = Counter()

    async def startup(self, *, spared: Collection[str]) -> None:
        """Remove bytes that belong to nothing; `spared`: ids of files that are still being made."""
        try:
            known = await asyncio.to_thread(self._store.ids)
            self._held_bytes = await asyncio.to_thread(self._store.held_bytes)
            orphans = await asyncio.to_thread(self.blobs.sweep, known | set(spared))
        except (ConfigError, OSError) as error:
            logger.warning("the files of an earlier platform cannot be looked through: %s", error)
            return
        if orphans:
            logger.info("removed %d files that were never finished", orphans)

    async def file(self, file_id: str, *, param: str | None = None) -> StoredFile:
        """Raises NotFound."""
        file = await asyncio.to_thread(self._store.get, file_id, now=self._clock.now())
        if file is None:
            raise NotFound(
                f"there is no file {file_id[:100]!r}: it was deleted, has expired, or never was", param=param
            )
        return file

    async def page(
        self, *, limit: int, after: str | None, descending: bool, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Some of them, and whether there are more. Raises NotFound for an unknown `after`."""
        last = None if after is None else await self.file(after, param="after")
        found = await asyncio.to_thread(
            self._store.page,
            now=self._clock.now(),
            limit=limit + 1,
            after=last,
            descending=descending,
            purpose=purpose,
        )
        return found[:limit], len(found) > limit

    async def open(self, file: StoredFile) -> IO[bytes]:
        """Its bytes, which can be read to their end whatever happens to the file. Raises NotFound."""
        try:
            return await asyncio.to_thread(self.blobs.open, file.id)
        except FileNotFoundError:
            raise NotFound(f"the bytes of the file {file.id!r} are gone from the disk") from None

    async def delete(self, file_id: str) -> None:
        """Raises NotFound, and InvalidRequest while it is read by what goes on without a client."""
        file = await self.file(file_id)
        if self._read_by[file_id]:
            raise InvalidRequest(f"the file {file_id!r} is read by a batch: cancel the batch first")
        await self._remove(file)

    async def _remove(self, file: StoredFile) -> None:
        if await asyncio.to_thread(self._store.delete, file.id):
            self._held_bytes -= file.size_bytes
            await asyncio.to_thread(self.blobs.delete, file.id)

    @contextmanager
    def reading(self, file_id: str) -> Iterator[None]:
        """As long as it lasts, the file neither expires nor is deleted."""
        self._read_by[file_id] += 1
        try:
            yield
        finally:
            self._read_by[file_id] -= 1

    # New ones

    def check_room(self, size_bytes: int) -> None:
        """Raises RequestTooLarge and StorageFull."""
        if size_bytes > self.room.file_bytes:
            raise RequestTooLarge(f"the file is larger than the limit of {self.room.file_bytes} bytes")
        if self._held_bytes + size_bytes > self.room.all_bytes:
            raise StorageFull(
                f"files take {self._held_bytes} of {self.room.all_bytes} bytes: delete some, "
                "or allow more with the setting 'max_files_bytes'"
            )

    async def begin(self) -> tuple[str, Draft]:
        """The id and the bytes of a file to be. Raises StorageFull."""
        file_id = new_id(PREFIX)
        return file_id, await asyncio.to_thread(self.blobs.begin, file_id)

    async def add(
        self, file_id: str, draft: Draft, *, filename: str, purpose: str, keep_s: int | None
    ) -> StoredFile:
        """Keep it: whatever happens, it is there once this has returned. Raises as `check_room` does."""
        self.check_room(draft.size_bytes)
        now = self._clock.now()
        file = StoredFile(
            id=file_id,
            created_at=now,
            expires_at=None if keep_s is None else now + timedelta(seconds=keep_s),
            size_bytes=draft.size_bytes,
            filename=filename,
            purpose=purpose,
        )
        self._held_bytes += draft.size_bytes
        try:
            await asyncio.to_thread(draft.keep)
            await asyncio.to_thread(self._store.add, file)
        except BaseException:
            self._held_bytes -= draft.size_bytes
            raise
        return file

    def made(self, size_bytes: int) -> None:
        """A file was added elsewhere, in one transaction with what it belongs to."""
        self._held_bytes += size_bytes

    # Time

    async def prune(self) -> None:
        """Remove what has expired, again and again."""
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> None:
        """Remove what has expired by now."""
        spared = {file_id for file_id, readers in self._read_by.items() if readers}
        try:
            now = self._clock.now()
            for file in await asyncio.to_thread(self._store.expired, now, spared=spared):
                await self._remove(file)
        except (ConfigError, OSError) as error:
            logger.warning("expired files cannot be removed for now: %s", error)
