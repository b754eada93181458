"""Small blocking calls of many requests, done together: to wake a thread for each costs more than they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from ekiben.contract.threads import WorkerThread

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    function: Callable[[], Any]
    done: asyncio.Future[Any]

    def result(self) -> tuple[Any, Exception | None]:
        """On the thread. Of what nobody waits for any more, nothing."""
        if self.done.done():
            return None, None
        try:
            return self.function(), None
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            return None, error

    def tell(self, result: Any, error: Exception | None) -> None:
        """On the loop."""
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


class Desk:
    """Calls lie on it until the thread is free, which then does all of them, in the order they came."""

    def __init__(self, worker: WorkerThread) -> None:
        self._worker = worker
        self._calls: list[_Call] = []
        self._working: asyncio.Task[None] | None = None

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result. Cancelling the caller withdraws a call that has not begun."""
        done = asyncio.get_running_loop().create_future()
        self._calls.append(_Call(lambda: function(*args, **kwargs), done))
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="desk")
        result: T = await done
        return result

    async def _work(self) -> None:
        calls: list[_Call] = []
        try:
            while self._calls:
                calls, self._calls = self._calls, []
                outcomes = await self._worker.run(_all, calls)
                for call, (result, error) in zip(calls, outcomes, strict=True):
                    call.tell(result, error)
        finally:  # the thread may have ended
            for call in (*calls, *self._calls):
                call.done.cancel()
            self._calls = []
            self._working = None


def _all(calls: Sequence[_Call]) -> list[tuple[Any, Exception | None]]:
    return [call.result() for call in calls]
