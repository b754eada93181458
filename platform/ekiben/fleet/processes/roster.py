"""The processes of the fleet: starts and signals them, measures what they hold, notices their ends.

Carries out what the core has decided about processes, and decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from ekiben.clock import Clock
from ekiben.fleet.decisions.events import Event, Exited, Launch, Measured, Reported
from ekiben.fleet.decisions.ledger import Memory
from ekiben.fleet.policy.history import History
from ekiben.fleet.processes.launcher import Adopted, Launcher, Plan, Process
from ekiben.fleet.processes.page_cache import prefetch
from ekiben.runtime.protocol import Report, Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """What the core need not know of a replica."""

    process: Process
    plan: Plan
    started_at: datetime


class Roster:
    """All processes that are there."""

    def __init__(
        self,
        launcher: Launcher,
        *,
        post: Callable[[Event], None],
        on_work: Callable[[str], None],
        clock: Clock,
    ) -> None:
        """`on_work` is called with a model's name whenever its `work` has changed."""
        self._launcher = launcher
        self._on_work = on_work
        self._work: dict[str, Sequence[Work]] = {}
        self._post = post
        self._clock = clock
        self._facts: dict[str, ReplicaFacts] = {}
        self._starts: dict[str, History] = {}
        self._quiet = asyncio.Event()

    @property
    def facts(self) -> Mapping[str, ReplicaFacts]:
        """By the replicas' ids."""
        return self._facts

    def work(self, replica_id: str) -> Sequence[Work]:
        """How far its requests have come that take long, as it told last. An adopted one cannot tell."""
        return self._work.get(replica_id, ())

    def launch(self, effect: Launch, plan: Plan) -> None:
        """Returns at once; ends in `Exited`."""
        for path in plan.files:
            asyncio.get_running_loop().run_in_executor(None, prefetch, path)
        plan = replace(plan, device=effect.device)
        replica_id = effect.replica_id
        try:
            process = self._launcher.launch(
                replica_id,
                plan=plan,
                go=effect.go,
                on_report=partial(self._heard, replica_id),
                on_exit=partial(self.exited, replica_id),
            )
        except OSError as error:
            self._post(Exited(replica_id, f"no process can be started: {error}"))
            return
        self._starts[plan.engine] = self.starts_of(plan.engine).after_use(self._clock.monotonic())
        self.add(replica_id, process, plan, started_at=self._clock.now())

    async def adopt(self, *, wanted: Callable[[Plan], bool]) -> Sequence[Adopted]:
        """The replicas of an earlier platform that run as wanted; the others are ended."""
        taken = await self._launcher.adopt(wanted=wanted, on_exit=self.exited)
        for adopted in taken:
            self.add(adopted.replica_id, adopted.process, adopted.plan, started_at=adopted.started_at)
        return taken

    def starts_of(self, engine: str) -> History:
        """How often processes of an engine are started."""
        return self._starts.get(engine, History())

    def add(self, replica_id: str, process: Process, plan: Plan, *, started_at: datetime) -> None:
        """A process that is there."""
        self._quiet.clear()
        self._facts[replica_id] = ReplicaFacts(process=process, plan=plan, started_at=started_at)

    def _heard(self, replica_id: str, report: Report) -> None:
        """What is worked at decides nothing, so the core is not asked."""
        facts = self._facts.get(replica_id)
        if report.work is None:
            self._post(Reported(replica_id, report))
        elif facts is not None:
            self._work[replica_id] = report.work
            self._on_work(facts.plan.model.name)

    def exited(self, replica_id: str, reason: str) -> None:
        """A process is gone and reaped."""
        self._work.pop(replica_id, None)
        facts = self._facts.pop(replica_id)
        logger.info("model %s: replica %s ended: %s", facts.plan.model.name, replica_id, reason)
        self._post(Exited(replica_id, reason, killed=signal.SIGKILL.name in reason))
        if not self._facts:
            self._quiet.set()

    def act(self, replica_id: str, what: Callable[[Process], None]) -> None:
        """Do something with a process, if it is there."""
        facts = self._facts.get(replica_id)
        if facts is not None:
            what(facts.process)

    async def measure(self, replica_ids: list[str]) -> list[tuple[Plan, Memory]]:
        """What these hold now; it is also told to the core. Off the loop: it takes milliseconds each."""
        measured: list[tuple[Plan, Memory]] = []
        for replica_id in replica_ids:
            facts = self._facts.get(replica_id)
            memory = None if facts is None else await asyncio.to_thread(facts.process.memory)
            if facts is not None and memory is not None:
                measured.append((facts.plan, memory))
                self._post(Measured(replica_id, memory))
        return measured

    def kill_all(self) -> None:
        """End every process now; the requests on them break off."""
        for facts in self._facts.values():
            facts.process.kill()

    async def until_quiet(self) -> None:
        """Return when no process is left."""
        while self._facts:
            await self._quiet.wait()
