"""Blocking engines on an event loop: one worker thread per model, and iterators that can be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_END: Final = object()


class WorkerThread:
    """Runs blocking calls one after the other, in the order they came.

    Most native libraries are neither faster nor safe when called from two threads at once. A call that
    is cancelled while it waits never starts; one that is running is left to end, since a thread cannot
    be interrupted, so split long work into the steps of an iterator.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result. Cancelling the caller withdraws a call that has not begun."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def iterate(self, make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
        """What the iterator of `make()` yields, one step of it at a time.

        Other calls interleave between its steps. Closing this generator closes the iterator, in the
        worker, after the step that is running.
        """
        iterator = await self.run(make)
        try:
            while (item := await self.run(next, iterator, _END)) is not _END:
                yield item  # type: ignore[misc]
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                self._executor.submit(close)

    def close(self) -> None:
        """Drop what has not begun and return without waiting for what runs."""
        self._executor.shutdown(wait=False, cancel_futures=True)
