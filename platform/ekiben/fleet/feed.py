"""One feed of changes for any number of readers, none of which can hold up another or the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

PAUSE_S = 0.1
"""Changes of the same model within such a time are told once."""


class _Reader:
    def __init__(self) -> None:
        self.pending: dict[str, None] = {}
        self.news = asyncio.Event()


class Feed:
    """Tells which models changed. A reader asks for their state when it gets round to it, so that a slow
    one misses states in between and never the last."""

    def __init__(self) -> None:
        self._sequence = 0
        self._readers: set[_Reader] = set()
        self._closed = False

    def publish(self, model: str) -> None:
        """Cheap, never blocks."""
        self._sequence += 1
        for reader in self._readers:
            reader.pending[model] = None
            reader.news.set()

    def close(self) -> None:
        """End all readers."""
        self._closed = True
        for reader in self._readers:
            reader.news.set()

    async def follow(self) -> AsyncIterator[tuple[int, Sequence[str] | None]]:
        """(sequence number, names that changed); first with None, for a snapshot. Ends with `close`."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            yield self._sequence, None
            while not self._closed:
                await reader.news.wait()
                reader.news.clear()
                if names := list(reader.pending):
                    reader.pending.clear()
                    yield self._sequence, names
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._readers.discard(reader)
