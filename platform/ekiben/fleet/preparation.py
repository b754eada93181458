"""Bringing engine and weights of models that are to start: one task for each, which ends in an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from ekiben.clock import Clock
from ekiben.contract.model import ModelSpec
from ekiben.contract.source import FetchProgress
from ekiben.errors import EkibenError, LoadFailed
from ekiben.fleet.decisions.events import Event, Prepared, Preparing
from ekiben.fleet.decisions.ledger import Memory, Place
from ekiben.fleet.processes.launcher import Plan

logger = logging.getLogger(__name__)


class Preparer(Protocol):
    """What must be there before a process is started."""

    async def prepare(self, spec: ModelSpec, report: Callable[[FetchProgress], None]) -> Plan:
        """Choose variant and device, fetch the weights that are missing.

        Raises EngineNotInstalled, FetchFailed, LoadFailed. Cancelling it leaves nothing broken."""

    def look(self, spec: ModelSpec) -> Plan | None:
        """The same without fetching: None while weights are missing. Raises EngineNotInstalled."""


class MemoryBook(Protocol):
    """What is known of devices, and of what models need on them. Nothing but `foreseen` takes time."""

    def budgets(self) -> Memory:
        """What the platform may hold on each device, now."""

    def places(self, plan: Plan) -> tuple[Place, ...]:
        """The devices that the plan may run on, with what was needed there before.

        Raises InsufficientMemory when there are too few."""

    async def foreseen(self, plan: Plan) -> tuple[Place, ...]:
        """The same, with what the engine estimates where nothing was needed before. Raises LoadFailed."""

    def measured(self, plan: Plan, memory: Memory) -> None:
        """A ready replica of the plan holds so much; the most is remembered."""

    def ran_out(self, plan: Plan, memory: Memory) -> None:
        """With so much set aside a load ran out of memory: the next one needs more."""


class StartBook(Protocol):
    """What is known of starts. Nothing of it blocks."""

    def started(self, plan: Plan, stages_s: dict[str, float]) -> None:
        """A start of the plan went well, and took so long."""

    def eta_s(self, plan: Plan, stage: str, elapsed_s: float) -> float | None:
        """From so far into a stage to ready; None when no start of the kind is known."""

    def cold_cost_s(self, plan: Plan) -> float | None:
        """What its starts cost those who wait, usually."""


class Preparations:
    """All that are under way, and the plans that came of them."""

    def __init__(
        self,
        preparer: Preparer,
        memory: MemoryBook,
        starts: StartBook,
        *,
        post: Callable[[Event], None],
        clock: Clock,
    ) -> None:
        self._preparer = preparer
        self._memory = memory
        self._starts = starts
        self._post = post
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.plans: dict[str, Plan] = {}
        """Of each model, the last."""

    def begin(self, spec: ModelSpec) -> None:
        """Returns at once; ends in `Prepared`."""
        task = asyncio.create_task(self._prepare(spec), name=f"prepare {spec.name}")
        self._tasks[spec.name] = task
        task.add_done_callback(lambda _: self._tasks.pop(spec.name, None))

    def cancel(self) -> None:
        """All of them; no events come any more."""
        for task in self._tasks.values():
            task.cancel()

    async def _prepare(self, spec: ModelSpec) -> None:
        name, meter = spec.name, _Meter(self._clock)

        def report(progress: FetchProgress) -> None:
            self._post(Preparing(name, *meter.read(progress)))

        try:
            plan = await self._preparer.prepare(spec, report)
            places = self._memory.places(plan)
        except EkibenError as error:
            logger.warning("model %s: %s", name, error.message)
            self._post(Prepared(name, error))
        except Exception as error:
            logger.exception("model %s could not be prepared", name)
            self._post(Prepared(name, LoadFailed(f"{name!r} could not be prepared: {error}")))
        else:
            self.plans[name] = plan
            cold_cost_s = self._starts.cold_cost_s(plan)
            self._post(Prepared(name, None, places, plan.engine, cold_cost_s))


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
