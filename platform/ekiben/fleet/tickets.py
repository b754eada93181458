"""Who waits for an answer of the core: a future for each ticket."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from ekiben.errors import EkibenError
from ekiben.fleet.decisions.events import Event, Release, Withdraw
from ekiben.fleet.types import Address


@dataclass(frozen=True, slots=True)
class Granted:
    """The replica of a grant, as it was at that moment."""

    id: str
    address: Address


class Tickets:
    """Each is resolved or rejected once, or withdrawn."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Granted | None]] = {}

    def number(self) -> int:
        """Of a ticket that nobody waits for, or of one to be opened."""
        return next(self._numbers)

    def open(self, number: int) -> asyncio.Future[Granted | None]:
        """Do it before the event with the ticket is posted: the answer may come at once."""
        future = self._open[number] = asyncio.get_running_loop().create_future()
        return future

    async def outcome(self, number: int) -> Granted | None:
        """Wait for the answer. Raises the error that it is; cancelled, it takes the ticket back."""
        future = self._open[number]
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._post(Release(number))
            self._post(Withdraw(number))
            raise
        finally:
            self._open.pop(number, None)

    def resolve(self, number: int, granted: Granted | None) -> None:
        """What was granted to nobody goes straight back."""
        future = self._open.get(number)
        if future is None or future.done():
            self._post(Release(number))
        else:
            future.set_result(granted)

    def reject(self, number: int, error: EkibenError) -> None:
        future = self._open.get(number)
        if future is not None and not future.done():
            future.set_exception(error)
