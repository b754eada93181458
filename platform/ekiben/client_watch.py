"""Whether the client of a request is still there: what an ASGI server tells to whoever asks again.

Gateway and replicas both watch their clients, so this imports nothing of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

WATCH_AFTER_S: Final = 0.05
"""Most answers are sent before it would be worth looking whether anybody is left."""


class Watch:
    """From a moment on, calls `on_left` when the client leaves; once at most, and not after `close`."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        on_left: Callable[[], None],
        *,
        name: str,
    ) -> None:
        """`receive`: of the request, whose body has been read. Begins in the running loop."""
        self._receive = receive
        self._on_left = on_left
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch(), name=self._name)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_left()
