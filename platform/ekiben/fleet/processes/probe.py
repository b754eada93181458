"""Whether the ready replicas live: each is asked every few seconds, for a process can hang without ending.

Tells of what it finds and decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from ekiben.fleet.call import call
from ekiben.fleet.types import Address

logger = logging.getLogger(__name__)

EVERY_S: Final = 5.0
DEADLINE_S: Final = 5.0
"""Long for a loop that only passes on what engines compute, on a machine that is busy with all of them."""
_OK: Final = 200


class Prober:
    """`on_silent` is called once when a replica does not answer, `on_answered` when it does again."""

    def __init__(
        self,
        ready: Callable[[], Iterable[tuple[str, Address]]],
        *,
        on_silent: Callable[[str], None],
        on_answered: Callable[[str], None],
        every_s: float = EVERY_S,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`ready`: the ids and addresses of the replicas to ask, those that are silent among them."""
        self._ready = ready
        self._on_silent = on_silent
        self._on_answered = on_answered
        self._every_s = every_s
        self._deadline_s = deadline_s
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.go_round()

    async def go_round(self) -> None:
        """Ask each of them once, all at the same time."""
        asked = list(self._ready())
        answers = await asyncio.gather(*(self._lives(address) for _, address in asked))
        still = {replica_id for replica_id, _ in self._ready()}
        self._silent &= still
        for (replica_id, _), lives in zip(asked, answers, strict=True):
            if replica_id in still:  # or it has ended, and no answer was to be had
                self._tell(replica_id, lives=lives)

    def _tell(self, replica_id: str, *, lives: bool) -> None:
        if lives and replica_id in self._silent:
            self._silent.discard(replica_id)
            logger.info("replica %s answers again", replica_id)
            self._on_answered(replica_id)
        elif not lives and replica_id not in self._silent:
            self._silent.add(replica_id)
            logger.warning("replica %s does not answer: it gets no requests until it does", replica_id)
            self._on_silent(replica_id)

    async def _lives(self, address: Address) -> bool:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await call(address, "GET", "/livez") == _OK
        except TimeoutError:
            return False
