"""What is done now and then while the fleet runs: budgets looked at, replicas measured and asked whether
they live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ekiben.clock import Clock
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.events import Answered, Budgets, Event, Silent, Spare, SpareZygote
from ekiben.fleet.decisions.ledger import HOST
from ekiben.fleet.preparation import MemoryBook
from ekiben.fleet.processes.launcher import Launcher
from ekiben.fleet.processes.probe import Prober
from ekiben.fleet.processes.roster import Roster
from ekiben.fleet.types import Address, State

UPKEEP_S: Final = 5.0
ZYGOTE_SAVES_S: Final = 1.0
"""What a start takes longer without its engine's zygote: as measured, half a second to three."""


class Upkeep:
    """Two tasks. `start` them, and `stop` them before the fleet ends."""

    def __init__(
        self,
        core: FleetCore,
        roster: Roster,
        launcher: Launcher,
        memory: MemoryBook,
        *,
        post: Callable[[Event], None],
        clock: Clock,
    ) -> None:
        self._core = core
        self._roster = roster
        self._launcher = launcher
        self._memory = memory
        self._post = post
        self._clock = clock
        self._prober = Prober(
            self._ready_addresses,
            on_silent=lambda replica_id: post(Silent(replica_id)),
            on_answered=lambda replica_id: post(Answered(replica_id)),
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="upkeep of the fleet"),
            asyncio.create_task(self._prober.run(), name="prober of replicas"),
        ]

    def stop(self) -> None:
        """Nothing is done any more."""
        for task in self._tasks:
            task.cancel()

    def look_at_budgets(self) -> None:
        self._post(Budgets(self._memory.budgets()))

    def look_at_zygotes(self) -> None:
        """Tell the core which zygotes there are, and what they are worth."""
        now = self._clock.monotonic()
        spare = {}
        for zygote in self._launcher.zygotes():
            uses = self._roster.starts_of(zygote.engine)
            spare[zygote.engine] = SpareZygote(
                memory={HOST: zygote.memory_bytes or 0},
                rate=uses.rate(now),
                cold_cost_s=ZYGOTE_SAVES_S,
                last_use_s=uses.used_at_s,
            )
        self._post(Spare(spare))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            self.look_at_budgets()
            ready = [s.id for s in self._core.replicas.values() if s.state is State.READY]
            for plan, memory in await self._roster.measure(ready):
                self._memory.measured(plan, memory)
            self.look_at_zygotes()

    def _ready_addresses(self) -> list[tuple[str, Address]]:
        return [
            (replica_id, facts.process.address)
            for replica_id, facts in self._roster.facts.items()
            if (replica := self._core.replicas.get(replica_id)) is not None and replica.state is State.READY
        ]
