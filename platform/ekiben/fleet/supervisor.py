"""The loop around the core: it feeds events in, carries effects out, and is what the gateway talks to.

Everything here runs on one event loop. Events are taken one after the other, to the end, so that the
core never sees two at once; what takes long is a task that ends in an event.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.contract.model import ModelSpec
from ekiben.contract.source import FetchProgress
from ekiben.errors import EkibenError, LoadFailed, ModelNotReady
from ekiben.fleet.core import FleetCore
from ekiben.fleet.events import (
    Arrive,
    Changed,
    Effect,
    Event,
    Exited,
    Fail,
    Forget,
    Grant,
    Kill,
    Launch,
    Prepare,
    Prepared,
    Preparing,
    Release,
    Reported,
    Shutdown,
    Stop,
    Terminate,
    Tick,
    Want,
    Withdraw,
)
from ekiben.fleet.feed import Feed
from ekiben.fleet.launcher import Launcher, Plan, Process, log_path
from ekiben.fleet.page_cache import prefetch
from ekiben.fleet.status import ReplicaFacts, model_status
from ekiben.fleet.types import Address, Lease, ModelStatus, Progress, ZygoteStatus

logger = logging.getLogger(__name__)


class CatalogEntry(Protocol):
    @property
    def spec(self) -> ModelSpec: ...


class Models(Protocol):
    """What the fleet needs of the catalog."""

    def get(self, name: str) -> CatalogEntry:
        """By name or alias. Raises ModelNotFound."""

    def entries(self) -> Sequence[CatalogEntry]:
        """All of them, by name."""


class Preparer(Protocol):
    """What must be there before a process is started."""

    async def prepare(self, spec: ModelSpec, report: Callable[[FetchProgress], None]) -> Plan:
        """Choose variant and device, fetch the weights that are missing.

        Raises EngineNotInstalled, FetchFailed, LoadFailed. Cancelling it leaves nothing broken."""


@dataclass(frozen=True, slots=True)
class _Granted:
    """The replica of a grant, as it was at that moment."""

    id: str
    address: Address


class Supervisor:
    """Implements `FleetPort`."""

    def __init__(
        self,
        *,
        core: FleetCore,
        models: Models,
        preparer: Preparer,
        launcher: Launcher,
        log_folder: Path,
        keep_alive_s: float,
        wait_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._core = core
        self._models = models
        self._preparer = preparer
        self._launcher = launcher
        self._log_folder = log_folder
        self._keep_alive_s = keep_alive_s
        self._wait_s = wait_s
        self._clock = clock
        self._numbers = itertools.count(1)
        self._tickets: dict[int, asyncio.Future[_Granted | None]] = {}
        self._inbox: deque[Event] = deque()
        self._taking = False
        self._prepared: dict[str, Plan] = {}
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._replicas: dict[str, ReplicaFacts] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._feed = Feed()

    # FleetPort

    async def acquire(self, model: str, *, wait_s: float | None = None) -> Lease:
        spec = self._models.get(model).spec
        ticket, replica = await self._ask(spec, Want.LEASE, wait_s)
        if replica is None:
            raise AssertionError("a lease was granted without a replica")
        return Lease(id=ticket, model=spec.name, replica_id=replica.id, address=replica.address)

    def release(self, lease: Lease, *, died: bool = False) -> None:
        self._post(Release(lease.id, died=died))

    def progress(self, model: str) -> Progress:
        status = self.status(model)
        return Progress(state=status.state, stage=status.stage, progress=status.progress, eta_s=status.eta_s)

    def status(self, model: str) -> ModelStatus:
        """One model. Raises ModelNotFound."""
        spec = self._models.get(model).spec
        now = self._clock.monotonic()
        return model_status(spec, self._core, self._replicas, now=now)

    def snapshot(self) -> Sequence[ModelStatus]:
        now = self._clock.monotonic()
        return [model_status(s, self._core, self._replicas, now=now) for s in self._specs()]

    def zygotes(self) -> Sequence[ZygoteStatus]:
        return self._launcher.zygotes()

    async def load(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        spec = self._models.get(model).spec
        if wait_s == 0:
            self._post(self._arrival(spec, Want.LOADED))
        else:
            await self._ask(spec, Want.LOADED, wait_s)
        return self.status(model)

    async def pull(self, model: str, *, wait_s: float | None = None) -> ModelStatus:
        spec = self._models.get(model).spec
        if wait_s == 0:
            self._post(self._arrival(spec, Want.WEIGHTS))
        else:
            await self._ask(spec, Want.WEIGHTS, wait_s)
        return self.status(model)

    async def stop(self, model: str) -> ModelStatus:
        spec = self._models.get(model).spec
        ticket = next(self._numbers)
        future = self._register(ticket)
        self._post(Stop(ticket, spec.name))
        await self._outcome(ticket, future)
        return self.status(model)

    async def forget(self, model: str) -> None:
        """Stop a model and drop its state: it is leaving the catalog, or has a new spec."""
        name = self._models.get(model).spec.name
        await self.stop(name)
        self._post(Forget(name))

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
        for task in self._preparing.values():
            task.cancel()
        self._post(Shutdown())
        try:
            async with asyncio.timeout(grace_s):
                await self._until_quiet()
        except TimeoutError:
            self.kill_all()
            await self._until_quiet()
        finally:
            self._feed.close()
            if self._alarm is not None:
                self._alarm.cancel()
            self._launcher.close()

    def kill_all(self) -> None:
        """End every process now; the requests on them break off."""
        for facts in self._replicas.values():
            facts.process.kill()

    def _specs(self) -> list[ModelSpec]:
        return [entry.spec for entry in self._models.entries()]

    # Tickets

    async def _ask(self, spec: ModelSpec, want: Want, wait_s: float | None) -> tuple[int, _Granted | None]:
        event = self._arrival(spec, want)
        future = self._register(event.ticket)
        self._post(event)
        if future.done():  # a model that is ready grants at once
            return event.ticket, await self._outcome(event.ticket, future)
        budget_s = self._wait_s if wait_s is None else wait_s
        try:
            async with asyncio.timeout(budget_s):
                return event.ticket, await self._outcome(event.ticket, future)
        except TimeoutError:
            progress = self.progress(spec.name)
            raise ModelNotReady(
                f"{spec.name!r} is not ready yet ({progress.stage}): ask again, it goes on loading",
                retry_after_s=progress.eta_s or 10.0,
                detail=progress.as_detail(),
            ) from None

    def _arrival(self, spec: ModelSpec, want: Want) -> Arrive:
        keep_alive_s = self._keep_alive_s if spec.keep_alive is None else spec.keep_alive
        return Arrive(next(self._numbers), spec.name, want, keep_alive_s)

    def _register(self, ticket: int) -> asyncio.Future[_Granted | None]:
        future = self._tickets[ticket] = asyncio.get_running_loop().create_future()
        return future

    async def _outcome(self, ticket: int, future: asyncio.Future[_Granted | None]) -> _Granted | None:
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._post(Release(ticket))
            self._post(Withdraw(ticket))
            raise
        finally:
            self._tickets.pop(ticket, None)

    # The loop

    def _post(self, event: Event) -> None:
        """Take the event now, or after the one that is being taken."""
        self._inbox.append(event)
        if self._taking:
            return
        self._taking = True
        try:
            while self._inbox:
                for effect in self._core.handle(self._inbox.popleft(), self._clock.monotonic()):
                    self._carry_out(effect)
        finally:
            self._taking = False
        self._set_alarm()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Grant():
                self._resolve(effect)
            case Fail():
                self._reject(effect)
            case Changed():
                self._feed.publish(effect.model)
            case Prepare():
                self._prepare(effect.model)
            case Launch():
                self._launch(effect)
            case Terminate():
                self._with_process(effect.replica_id, lambda process: process.terminate())
            case Kill():
                self._with_process(effect.replica_id, lambda process: process.kill())

    def _resolve(self, effect: Grant) -> None:
        future = self._tickets.get(effect.ticket)
        if future is None or future.done():
            # Nobody waits any more: what was granted goes straight back.
            self._inbox.append(Release(effect.ticket))
            return
        facts = self._replicas.get(effect.replica_id or "")
        future.set_result(_Granted(effect.replica_id or "", facts.process.address) if facts else None)

    def _reject(self, effect: Fail) -> None:
        future = self._tickets.get(effect.ticket)
        if future is not None and not future.done():
            future.set_exception(effect.error)

    def _with_process(self, replica_id: str, act: Callable[[Process], None]) -> None:
        facts = self._replicas.get(replica_id)
        if facts is not None:
            act(facts.process)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        at = self._core.next_wake()
        if at is not None:
            delay_s = max(0.0, at - self._clock.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._post, Tick())

    # Starting

    def _prepare(self, model: str) -> None:
        task = asyncio.create_task(self._prepare_task(model), name=f"prepare {model}")
        self._preparing[model] = task
        task.add_done_callback(lambda _: self._preparing.pop(model, None))

    async def _prepare_task(self, model: str) -> None:
        meter = _Meter(self._clock)

        def report(progress: FetchProgress) -> None:
            self._post(Preparing(model, *meter.read(progress)))

        try:
            self._prepared[model] = await self._preparer.prepare(self._models.get(model).spec, report)
        except EkibenError as error:
            logger.warning("model %s: %s", model, error.message)
            self._post(Prepared(model, error))
        except Exception as error:
            logger.exception("model %s could not be prepared", model)
            self._post(Prepared(model, LoadFailed(f"{model!r} could not be prepared: {error}")))
        else:
            self._post(Prepared(model))

    def _launch(self, effect: Launch) -> None:
        plan = self._prepared.pop(effect.model)
        asyncio.get_running_loop().run_in_executor(None, prefetch, plan.weights)
        replica_id = effect.replica_id
        try:
            process = self._launcher.launch(
                replica_id,
                plan=plan,
                go=True,
                on_report=lambda report: self._post(Reported(replica_id, report)),
                on_exit=lambda reason: self._exited(replica_id, reason),
            )
        except OSError as error:
            self._inbox.append(Exited(replica_id, f"no process can be started: {error}"))
            return
        self._quiet.clear()
        self._replicas[replica_id] = ReplicaFacts(process=process, plan=plan, started_at=self._clock.now())

    def _exited(self, replica_id: str, reason: str) -> None:
        facts = self._replicas.pop(replica_id)
        logger.info("model %s: replica %s ended: %s", facts.plan.model.name, replica_id, reason)
        self._post(Exited(replica_id, reason))
        if not self._replicas:
            self._quiet.set()

    async def _until_quiet(self) -> None:
        while self._replicas:
            await self._quiet.wait()


class _Meter:
    """Progress and time left of a fetch, from what it reports."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def read(self, progress: FetchProgress) -> tuple[float | None, float | None]:
        """(progress 0 to 1, seconds left); None for what is not known yet."""
        now = self._clock.monotonic()
        if self._first is None:
            self._first = (now, progress.done_bytes)
        if not progress.total_bytes:
            return None, None
        elapsed_s, done = now - self._first[0], progress.done_bytes - self._first[1]
        left = progress.total_bytes - progress.done_bytes
        eta_s = left * elapsed_s / done if done > 0 and elapsed_s > 0.5 else None
        return min(1.0, progress.done_bytes / progress.total_bytes), eta_s
