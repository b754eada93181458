"""How far long work has come: what requests tell of themselves, put together for whoever watches.

Of each request the latest is kept. All that are under way are told together, a few times a second at most,
however short their steps are; that one has ended is told as well. Belongs to the event loop. Knows nothing of
what is worked at, and nothing of who is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, TypeAlias

from ekiben.runtime.protocol import Work

Tell: TypeAlias = Callable[[Sequence[Work]], None]

PAUSE_S: Final = 0.1
"""Between two times that it is told."""
MAX_TOLD: Final = 64
"""Those that have been at it for longest; a crowd would make long reports, which nobody reads."""


class WorkBook:
    """Of one replica. `tell` is called on the event loop with all that is under way."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._under_way: dict[Undertaking, Work] = {}
        self._changed = False
        self._pausing = False

    def open(self, *, request: str, route: str) -> Undertaking:
        """For one request. To be closed when it ends, whether anything was told of it or not."""
        return Undertaking(self, request=request, route=route)

    def put(self, undertaking: Undertaking, work: Work) -> None:
        """The latest of one."""
        self._under_way[undertaking] = work
        self._note()

    def remove(self, undertaking: Undertaking) -> None:
        """It has ended. Harmless for those of which nothing was told."""
        if self._under_way.pop(undertaking, None) is not None:
            self._note()

    def _note(self) -> None:
        self._changed = True
        if not self._pausing:
            self._tell_all()

    def _tell_all(self) -> None:
        self._pausing = self._changed
        if self._changed:
            self._changed = False
            self._tell(list(islice(self._under_way.values(), MAX_TOLD)))
            asyncio.get_running_loop().call_later(PAUSE_S, self._tell_all)


class Undertaking:
    """One request, as far as it tells of itself."""

    __slots__ = ("_book", "_request", "_route")

    def __init__(self, book: WorkBook, *, request: str, route: str) -> None:
        self._book = book
        self._request = request
        self._route = route

    def tell(self, done: float, *, total: float | None, unit: str) -> None:
        """So much is done of so much, in `steps`, `seconds` or whatever the work consists of. Cheap.

        `total` is None as long as nobody knows it.
        """
        work = Work(request=self._request, route=self._route, done=done, total=total, unit=unit)
        self._book.put(self, work)

    def close(self) -> None:
        """Nothing is under way any more. Idempotent."""
        self._book.remove(self)
