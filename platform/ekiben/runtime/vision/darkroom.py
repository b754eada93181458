"""Where pictures of clients are decoded: as many at once as memory has room for, the others wait undecoded.

The bound is in pixels, over all requests: small pictures go by the dozen, so that they can be computed
together, and of the largest there are two. What a picture is and may be is said in `images`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from ekiben.runtime.vision.images import MAX_PIXELS, pixel_count, upright_png

Source: TypeAlias = Path | bytes
"""A picture as it was sent: a file of a form, or what was in a data URL."""

MAX_PIXELS_AT_ONCE: Final = 2 * MAX_PIXELS


class Darkroom:
    """Belongs to one event loop. Whoever came first gets in first."""

    def __init__(self, max_pixels: int = MAX_PIXELS_AT_ONCE) -> None:
        self._free = max_pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def developed(self, source: Source) -> AsyncGenerator[bytes, None]:
        """The picture upright and bounded, which keeps its room until the end. Raises as `upright_png`."""
        pixels = await asyncio.to_thread(pixel_count, source)
        async with self.room(pixels):
            yield await asyncio.to_thread(upright_png, source)

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncGenerator[None, None]:
        """Room for so many pixels, at most as many as there are in all."""
        await self._enter(pixels)
        try:
            yield
        finally:
            self._leave(pixels)

    async def _enter(self, pixels: int) -> None:
        place = (pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self._admit()
        try:
            await place[1]
        except asyncio.CancelledError:
            if place[1].cancelled():
                self._waiting.remove(place)
                self._admit()  # those behind it may be smaller
            else:  # let in just as it left
                self._leave(pixels)
            raise

    def _leave(self, pixels: int) -> None:
        self._free += pixels
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            pixels, turn = self._waiting.popleft()
            self._free -= pixels
            turn.set_result(None)


def darkroom() -> Darkroom:
    """That of the running loop: a replica has one of both."""
    return _rooms.setdefault(asyncio.get_running_loop(), Darkroom())


_rooms: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Darkroom]] = WeakKeyDictionary()
