"""The loop around the core: it feeds events in, carries effects out, and is what the gateway talks to.

Everything here runs on one event loop. Events are taken one after the other, to the end, so that the
core never sees two at once; what takes long is a task that ends in an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.contract.model import Family, ModelSpec
from ekiben.errors import EkibenError, InsufficientMemory, ModelNotFound, ModelNotReady
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.events import (
    Adopted,
    Arrive,
    Changed,
    Effect,
    Evicted,
    Fail,
    FirstByte,
    Forget,
    Go,
    Grant,
    Keep,
    Kill,
    Launch,
    Prepare,
    RanOut,
    Release,
    Replace,
    Shutdown,
    Sleep,
    Started,
    StartFailed,
    Stop,
    StopZygote,
    Terminate,
    Wake,
    Want,
)
from ekiben.fleet.decisions.ledger import Place
from ekiben.fleet.decisions.scaling import DEFAULT_CONCURRENCY, Terms, idle_concurrency
from ekiben.fleet.feed import Feed
from ekiben.fleet.loop import CoreLoop
from ekiben.fleet.preparation import MemoryBook, Preparations, Preparer, StartBook
from ekiben.fleet.processes.launcher import Launcher, Plan, log_path
from ekiben.fleet.processes.roster import Roster
from ekiben.fleet.status import StatusBoard
from ekiben.fleet.tickets import Granted, Tickets
from ekiben.fleet.types import Fit, Lease, ModelStatus, Prefix, Progress, ZygoteStatus
from ekiben.fleet.upkeep import Upkeep
from ekiben.fleet.witness import Witness

logger = logging.getLogger(__name__)


class CatalogEntry(Protocol):
    @property
    def spec(self) -> ModelSpec: ...


class Models(Protocol):
    """What the fleet needs of the catalog."""

    def get(self, name: str) -> CatalogEntry:
        """By name or alias. Raises ModelNotFound."""

    def meaning(self, name: str) -> str:
        """What an alias that a user has set stands for; any other name as it is."""

    def entries(self) -> Sequence[CatalogEntry]:
        """All of them, by name."""


class Supervisor:
    """Implements `FleetPort`."""

    def __init__(
        self,
        *,
        core: FleetCore,
        models: Models,
        preparer: Preparer,
        launcher: Launcher,
        memory: MemoryBook,
        starts: StartBook,
        log_folder: Path,
        keep_alive_s: float | None,
        wait_s: float,
        witness: Witness | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`keep_alive_s` of models that say nothing else; None: the policy decides."""
        self._core = core
        self._models = models
        self._preparer = preparer
        self._launcher = launcher
        self._memory = memory
        self._starts = starts
        self._log_folder = log_folder
        self._keep_alive_s = keep_alive_s
        self._wait_s = wait_s
        self._witness = witness or Witness()
        self._clock = clock
        self._loop = CoreLoop(core, self._carry_out, clock=clock)
        self._post = self._loop.post
        self._tickets = Tickets(self._post)
        self._terms_of: dict[str, tuple[ModelSpec, Terms]] = {}
        self._preparations = Preparations(preparer, memory, starts, post=self._post, clock=clock)
        self._feed = Feed()
        self._roster = Roster(launcher, post=self._post, on_work=self._feed.publish, clock=clock)
        self._board = StatusBoard(core, self._roster, self._preparations, starts)
        self._upkeep = Upkeep(core, self._roster, launcher, memory, post=self._post, clock=clock)

    async def start(self) -> None:
        """Take over what an earlier platform left, begin the upkeep, and bring up what is to be there always.

        Returns before that is there.
        """
        await self._adopt()
        self._upkeep.start()
        for spec in self._specs():
            if spec.replicas.min:
                self._post(Keep(spec.name, self._terms(spec)))

    async def _adopt(self) -> None:
        replicas = await self._roster.adopt(wanted=self._is_wanted)
        self._upkeep.look_at_budgets()  # only now: what these hold is nobody else's
        for adopted in replicas:
            plan = adopted.plan
            self._preparations.plans[plan.model.name] = plan
            place = Place(plan.device, adopted.memory)
            terms = self._terms(plan.model)
            self._post(Adopted(plan.model.name, terms, adopted.replica_id, place, plan.engine))

    def _is_wanted(self, plan: Plan) -> bool:
        """Whether it is how the catalog would have the model run today."""
        try:
            return self._models.get(plan.model.name).spec == plan.model
        except ModelNotFound:
            return False

    # FleetPort

    async def acquire(
        self, model: str, *, wait_s: float | None = None, prefix: Prefix | None = None, idle: bool = False
    ) -> Lease:
        spec = self._models.get(model).spec
        # An adapter may have been added just now: then replicas of the earlier spec lack it.
        fresh = spec.adapter_of(self._models.meaning(model)) is not None
        ticket, replica = await self._ask(spec, Want.LEASE, wait_s, prefix, fresh=fresh, idle=idle)
        if replica is None:
            raise AssertionError("a lease was granted without a replica")
        if not idle:
            self._witness.used(spec.name)
        return Lease(id=ticket, model=spec.name, replica_id=replica.id, address=replica.address)

    def first_byte(self, lease: Lease) -> None:
        if self._core.waits_for_first_byte(lease.replica_id):
            self._post(FirstByte(lease.id))

    def release(self, lease: Lease, *, died: bool = False) -> None:
        self._post(Release(lease.id, died=died))

    def progress(self, model: str) -> Progress:
        status = self.status(model)
        return Progress(
            state=status.state,
            stage=status.stage,
            progress=status.progress,
            eta_s=status.eta_s,
            stages_s=status.stages_s,
        )

    def status(self, model: str) -> ModelStatus:
        """One model. Raises ModelNotFound."""
        return self._board.model(self._models.get(model).spec, self._clock.monotonic())

    def snapshot(self) -> Sequence[ModelStatus]:
        now = self._clock.monotonic()
        return [self._board.model(spec, now) for spec in self._specs()]

    def zygotes(self) -> Sequence[ZygoteStatus]:
        return self._launcher.zygotes()

    def replica_pids(self) -> list[int]:
        """Of all replicas' processes. May be called from any thread."""
        processes = [facts.process for facts in tuple(self._roster.facts.values())]
        return [process.pid for process in processes if process.pid is not None]

    async def fit(self, model: str) -> Fit:
        spec = self._models.get(model).spec
        places: tuple[Place, ...] = ()
        engine, reason = "", None
        try:
            plan = self._preparer.look(spec)
            if plan is None:
                reason = "its weights are not here yet"
            else:
                engine, places = plan.engine, self._memory.places(plan)
                places = await self._memory.foreseen(plan)
        except InsufficientMemory as error:
            never = self._core.fit(spec.name, (), engine, self._clock.monotonic())
            return replace(never, fits="never", reason=error.message)
        except EkibenError as error:
            reason = error.message
        fit = self._core.fit(spec.name, places, engine, self._clock.monotonic())
        return replace(fit, reason=reason) if fit.fits == "unknown" else fit

    async def load(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        return await self._bring(model, Want.LOADED, wait_s)

    async def pull(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        return await self._bring(model, Want.WEIGHTS, wait_s)

    async def _bring(self, model: str, want: Want, wait_s: float | None) -> ModelStatus:
        spec = self._models.get(model).spec
        if want is Want.LOADED:
            self._witness.intended(spec.name)
        if wait_s == 0:
            self._post(self._arrival(spec, want))
        else:
            await self._ask(spec, want, wait_s)
        return self.status(model)

    async def stop(self, model: str) -> ModelStatus:
        spec = self._models.get(model).spec
        ticket = self._tickets.number()
        self._tickets.open(ticket)
        self._post(Stop(ticket, spec.name))
        await self._tickets.outcome(ticket)
        return self.status(model)

    async def forget(self, model: str) -> None:
        """Stop a model and drop its state: it is leaving the catalog."""
        name = self._models.get(model).spec.name
        await self.stop(name)
        self._post(Forget(name))

    def replaced(self, model: str) -> None:
        """The catalog has a new spec: what runs goes once there is a replica of it."""
        spec = self._models.get(model).spec
        self._post(Replace(spec.name, self._terms(spec)))

    def prewarm(self, model: str, *, keep_alive_s: float) -> None:
        """Bring a model up without a request, if that harms nobody; it is kept for so long if none comes."""
        spec = self._models.get(model).spec
        terms = replace(self._terms(spec), keep_alive_s=keep_alive_s)
        self._post(Keep(spec.name, terms, prewarm=True))

    def memory(self) -> Mapping[str, tuple[int | None, int]]:
        """By device: the budget, None without one, and what is held of it."""
        budgets, held = self._core.ledger.budgets, self._core.ledger.held
        return {device: (budgets.get(device), held.get(device, 0)) for device in {**budgets, **held}}

    def log_path(self, model: str) -> Path:
        """Where the model's replicas write. The file may not exist yet. Raises ModelNotFound."""
        return log_path(self._log_folder, self._models.get(model).spec.name)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        async for sequence, names in self._feed.follow():
            if names is None:
                models = [asdict(status) for status in self.snapshot()]
                yield {"type": "snapshot", "seq": sequence, "models": models}
                continue
            for name in names:
                known = {spec.name for spec in self._specs()}
                if name in known:
                    yield {"type": "model", "seq": sequence, "model": asdict(self.status(name))}
                else:
                    yield {"type": "removed", "seq": sequence, "model": {"name": name}}

    def changed(self, model: str) -> None:
        """Tell the readers of events that something outside the fleet changed a model."""
        self._feed.publish(model)

    async def shutdown(self, grace_s: float) -> None:
        """Let requests end, stop every process. Returns when none is left, after `grace_s` by force."""
        self._preparations.cancel()
        self._upkeep.stop()
        self._post(Shutdown())
        try:
            async with asyncio.timeout(grace_s):
                await self._roster.until_quiet()
        except TimeoutError:
            self.kill_all()
            await self._roster.until_quiet()
        finally:
            self._feed.close()
            self._loop.close()
            self._launcher.close()

    def kill_all(self) -> None:
        """End every process now; the requests on them break off."""
        self._roster.kill_all()

    def _specs(self) -> list[ModelSpec]:
        return [entry.spec for entry in self._models.entries()]

    def _terms(self, spec: ModelSpec) -> Terms:
        """The same object as long as the spec is the same: the core need not look at it again."""
        known = self._terms_of.get(spec.name)
        if known is None or known[0] is not spec:
            known = self._terms_of[spec.name] = (spec, self._make_terms(spec))
        return known[1]

    def _make_terms(self, spec: ModelSpec) -> Terms:
        return Terms(
            keep_alive_s=self._keep_alive_s if spec.keep_alive is None else spec.keep_alive,
            min_replicas=spec.replicas.min,
            max_replicas=spec.replicas.max,
            concurrency=spec.replicas.concurrency or DEFAULT_CONCURRENCY,
            idle_concurrency=idle_concurrency(
                spec.replicas.concurrency or DEFAULT_CONCURRENCY,
                one_by_one=spec.family in (Family.AUDIO, Family.VISION),
            ),
            pinned=spec.pinned,
        )

    # Tickets

    async def _ask(
        self,
        spec: ModelSpec,
        want: Want,
        wait_s: float | None,
        prefix: Prefix | None = None,
        *,
        fresh: bool = False,
        idle: bool = False,
    ) -> tuple[int, Granted | None]:
        event = self._arrival(spec, want, prefix, fresh=fresh, idle=idle)
        future = self._tickets.open(event.ticket)
        self._post(event)
        if future.done():  # a model that is ready grants at once
            return event.ticket, await self._tickets.outcome(event.ticket)
        budget_s = self._wait_s if wait_s is None else wait_s
        try:
            async with asyncio.timeout(budget_s):
                return event.ticket, await self._tickets.outcome(event.ticket)
        except TimeoutError:
            progress = self.progress(spec.name)
            raise ModelNotReady(
                f"{spec.name!r} is not ready yet ({progress.stage}): ask again, it goes on loading",
                retry_after_s=progress.eta_s or 10.0,
                detail=progress.as_detail(),
            ) from None

    def _arrival(
        self,
        spec: ModelSpec,
        want: Want,
        prefix: Prefix | None = None,
        *,
        fresh: bool = False,
        idle: bool = False,
    ) -> Arrive:
        choice = prefix is not None and spec.replicas.max > 1 and self._core.has_choice(spec.name)
        parts = prefix() if choice and prefix is not None else ()
        return Arrive(self._tickets.number(), spec.name, want, self._terms(spec), parts, fresh, idle)

    # Effects

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Grant():
                self._tickets.resolve(effect.ticket, self._granted(effect.replica_id))
            case Fail():
                self._tickets.reject(effect.ticket, effect.error)
            case Changed():
                self._feed.publish(effect.model)
            case Prepare():
                self._preparations.begin(self._models.get(effect.model).spec)
            case Launch():
                self._roster.launch(effect, self._preparations.plans[effect.model])
            case Go():
                self._roster.act(effect.replica_id, lambda process: process.go())
            case Sleep():
                self._roster.act(effect.replica_id, lambda process: process.sleep())
            case Wake():
                self._roster.act(effect.replica_id, lambda process: process.wake())
            case Terminate():
                self._roster.act(effect.replica_id, lambda process: process.terminate())
            case Kill():
                self._roster.act(effect.replica_id, lambda process: process.kill())
            case _:
                self._note(effect)

    def _note(self, effect: Started | StartFailed | RanOut | Evicted | StopZygote) -> None:
        match effect:
            case Started():
                if (facts := self._roster.facts.get(effect.replica_id)) is not None:
                    self._starts.started(facts.plan, dict(effect.stages_s))
                    self._witness.started(facts.plan.model.name, effect.stages_s)
            case StartFailed():
                self._witness.failed(effect.model, effect.code)
            case RanOut():
                plan = replace(self._preparations.plans[effect.model], device=effect.device)
                self._memory.ran_out(plan, effect.memory)
            case Evicted():
                reason = f"for {effect.for_model!r}" if effect.for_model else "to keep within the budget"
                logger.info("model %s: replica %s goes %s", effect.model, effect.replica_id, reason)
                self._witness.evicted(effect.model, for_model=effect.for_model)
            case StopZygote():
                logger.info("the zygote of engine %s goes: its memory is wanted", effect.engine)
                self._launcher.stop_zygote(effect.engine)
                self._upkeep.look_at_zygotes()

    def _granted(self, replica_id: str | None) -> Granted | None:
        facts = self._roster.facts.get(replica_id or "")
        return None if facts is None or replica_id is None else Granted(replica_id, facts.process.address)
