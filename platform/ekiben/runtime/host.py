"""The model of this process: loaded once, held while requests are answered, freed at the end.

Turns an assignment (which model, which weights, which device) into a `LoadedModel` through the engine's
plugin. Knows nothing of HTTP and nothing of who wants the model; news goes to one callback.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from ekiben.contract.abilities import has_ability
from ekiben.contract.engine import (
    Countable,
    Device,
    Engine,
    LoadedModel,
    LoadRequest,
    MemoryEstimate,
    Sleeper,
)
from ekiben.contract.manifest import EngineSection, Manifest, problems
from ekiben.contract.model import Ability, ModelSpec, Variant
from ekiben.errors import EkibenError, EngineNotInstalled, LoadFailed
from ekiben.plugins.discovery import Plugin, Plugins, discover, load_object
from ekiben.runtime.batching.batcher import Watch
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.process.devices import as_seen, parts
from ekiben.runtime.process.footprint import host_bytes
from ekiben.runtime.process.shortage import is_shortage
from ekiben.runtime.process.signals import stopping_at_once
from ekiben.runtime.protocol import Order, Report, Stage, Work
from ekiben.runtime.work import Tell, WorkBook

logger = logging.getLogger(__name__)

CHAT_TEMPLATE: Final = "chat_template"
"""The option of engines that render chats."""
SCRATCH: Final = "tmp"
"""In a replica's folder, for sockets and temporary files of the engine."""
_SMALLEST_STEP: Final = 0.01
"""Progress of less is not reported, however often the engine calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A model to load, with its weights on this machine and everything decided."""

    model: ModelSpec
    variant: int
    weights: Path
    device: str
    threads: int
    scratch: Path
    cache: Path | None = None
    companions: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)

    @property
    def chosen(self) -> Variant:
        return self.model.variants[self.variant]


def assignment_of(order: Order) -> Assignment:
    """What the fleet has decided."""
    return Assignment(
        model=order.model,
        variant=order.variant,
        weights=order.weights,
        companions=order.companions,
        adapters=order.adapters,
        device=as_seen(order.device),
        threads=order.threads,
        scratch=order.folder / SCRATCH,
        cache=order.cache,
    )


class ModelHost:
    """Owns the loaded model of a process."""

    def __init__(
        self,
        assign: Callable[[], Awaitable[Assignment]],
        *,
        report: Callable[[Report], None],
        told_to_go: Callable[[], Awaitable[None]] | None = None,
        tell_work: Tell | None = None,
    ) -> None:
        """`assign` may take its time, to fetch weights; `report` may be called from any thread.

        `told_to_go` returns when the load may begin; without it, it begins at once. `tell_work` hears how far
        long work has come.
        """
        self._assign = assign
        self._report = report
        self._told_to_go = told_to_go
        self._assignment: Assignment | None = None
        self._loaded: LoadedModel | None = None
        self._fronts: Fronts | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self.work = WorkBook(tell_work or _keep_quiet)
        """Of the requests that are under way."""
        self.asleep = False
        """From the beginning of its sleep to the end of its waking: no request may reach it."""

    @property
    def model(self) -> ModelSpec:
        assert self._assignment is not None, "asked for the model before it was loaded"
        return self._assignment.model

    @property
    def fronts(self) -> Fronts:
        assert self._fronts is not None, "asked for the model before it was loaded"
        return self._fronts

    def able(self, ability: Ability) -> Any:
        """An object of the ability's protocol (`ekiben.contract.abilities`), to ask the model through."""
        return self.fronts.able(ability)

    async def assign(self) -> ModelSpec:
        """Learn which model it is to be. Raises EkibenError, after telling log and `report` of it."""
        with self._told():
            self._assignment = await self._assign()
        return self._assignment.model

    async def load(self) -> None:
        """Bring the assigned model into memory. Raises as `assign` does."""
        assert self._assignment is not None, "asked to load a model before it was assigned"
        with self._told():
            self._loaded = await self._load(self._assignment)
        self._fronts = Fronts(self._loaded, watch=_watch(), target_s=self.model.batch_target)

    @property
    def countable(self) -> Countable | None:
        """The model, if its engine can be asked now how much it has in hand."""
        loaded: object = self._loaded
        return loaded if isinstance(loaded, Countable) and not self.asleep else None

    @property
    def sleeps(self) -> bool:
        """Whether it is loaded, and can sleep."""
        return isinstance(self._loaded, Sleeper)

    @property
    def _sleeper(self) -> Sleeper:
        loaded: object = self._loaded
        assert isinstance(loaded, Sleeper), "told to sleep or wake, which the model cannot"
        return loaded

    @contextmanager
    def use(self) -> Iterator[None]:
        """Within, a request may reach the model: it does not fall asleep."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def sleep(self) -> None:
        """Let no request in, wait for those within, and free the device. Raises as `load` does."""
        sleeper = self._sleeper
        self.asleep = True
        await self._unused.wait()
        await self.fronts.rest()
        with self._told(), stopping_at_once(), self._as_load_failure("put to sleep"):
            await sleeper.sleep()

    async def wake(self) -> None:
        """Take the device again, and let requests in. Raises as `load` does."""
        sleeper = self._sleeper
        with self._told(), stopping_at_once(), self._as_load_failure("wake"):
            await sleeper.wake()
        self.asleep = False

    async def unload(self) -> None:
        """Free the model, if there is one. Idempotent."""
        loaded, self._loaded = self._loaded, None
        if self._fronts is not None:
            await self._fronts.close()
        if loaded is not None:
            await loaded.unload()
        if self._assignment is not None:
            shutil.rmtree(self._assignment.scratch, ignore_errors=True)

    async def _load(self, assignment: Assignment) -> LoadedModel:
        with self._as_load_failure("load"):
            engine, request = prepare_load(assignment, report=self._progress())
            estimate = await asyncio.to_thread(engine.estimate_memory, request)
            need = _need_report(estimate, request.devices)
            with stopping_at_once():
                if self._told_to_go is not None:
                    self._report(need)
                    await self._told_to_go()
                self._report(need.model_copy(update={"stage": Stage.LOADING, "progress": 0.0}))
                loaded = await engine.load(request)
        _check_abilities(loaded, assignment.model, assignment.chosen.engine)
        return loaded

    @contextmanager
    def _as_load_failure(self, doing: str) -> Iterator[None]:
        """Whatever an engine raises besides what it may."""
        assert self._assignment is not None, "asked to load a model before it was assigned"
        engine_id, name = self._assignment.chosen.engine, self._assignment.model.name
        try:
            yield
        except EkibenError:
            raise
        except Exception as error:
            logger.exception("engine %s broke down: it cannot %s %s", engine_id, doing, name)
            reason = f"the engine {engine_id!r} cannot {doing} {name!r}: {_one_line(error)}"
            raise LoadFailed(reason) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except EkibenError as error:
            self.fail(error)
            raise

    def fail(self, error: EkibenError) -> None:
        """Tell log and `report` that there will be no model."""
        logger.error("%s", error.message)
        self._report(Report(stage=Stage.FAILED, error=error.message, out_of_memory=is_shortage(error)))

    def _progress(self) -> Callable[[float], None]:
        last = 0.0

        def report(progress: float) -> None:
            nonlocal last
            if progress - last >= _SMALLEST_STEP:
                last = progress
                self._report(Report(stage=Stage.LOADING, progress=min(progress, 1.0)))

        return report


def _keep_quiet(_: Sequence[Work]) -> None:
    """There is nobody to tell."""


def _watch() -> Watch:
    """Metrics are imported late: see there."""
    from ekiben.runtime.metrics import BatchMetrics

    return BatchMetrics()


def prepare_load(assignment: Assignment, *, report: Callable[[float], None]) -> tuple[Engine, LoadRequest]:
    """The engine and what it is to load. Raises EngineNotInstalled, LoadFailed and what the plugin raises."""
    variant = assignment.chosen
    plugin = _plugin(variant.engine)
    devices = _devices(plugin.manifest, assignment)
    request = LoadRequest(
        model=assignment.model,
        variant=variant,
        weights=assignment.weights,
        companions=assignment.companions,
        adapters=assignment.adapters,
        options=_options(plugin.manifest, assignment),
        device=devices[0],
        more_devices=devices[1:],
        threads=assignment.threads,
        scratch=assignment.scratch,
        cache=assignment.cache,
        report=report,
    )
    engine: Engine = load_object(plugin)  # type: ignore[assignment]
    return engine, request


def _devices(manifest: Manifest, assignment: Assignment) -> tuple[Device, ...]:
    assert manifest.engine is not None, "discovery lets no engine pass without its section"
    devices = tuple(_device(manifest, part) for part in parts(assignment.device))
    wanted = manifest.engine.devices_for(assignment.chosen.options)
    if devices[0].kind != "cpu" and len(devices) != wanted:
        raise LoadFailed(
            f"{assignment.model.name!r} goes over {wanted} devices and is given {len(devices)}: "
            f"name as many, as in cuda:0+cuda:1, or change its options"
        )
    return devices


def _device(manifest: Manifest, text: str) -> Device:
    assert manifest.engine is not None, "discovery lets no engine pass without its section"
    kind, _, index = text.partition(":")
    if kind not in manifest.engine.devices:
        raise LoadFailed(
            f"the engine {manifest.id!r} runs on {', '.join(manifest.engine.devices)}, not on {text!r}"
        )
    if index and not index.isdigit():
        raise LoadFailed(f"{text!r} is not a device: write cpu, or like cuda:1")
    return Device(kind, int(index or 0))


@cache
def installed() -> Plugins:
    """The plugins, as they were when first asked for: a replica's do not change, and looking takes time.

    An engine that lives in an environment of its own is run from inside it: other homes are not looked into.
    """
    return discover()


def _plugin(engine_id: str) -> Plugin:
    plugins = installed()
    plugin = plugins.engines().get(engine_id)
    standing = plugins.standing(plugin) if plugin is not None else None
    if plugin is not None and standing is not None and standing.ready:
        return plugin
    if standing is not None:
        raise EngineNotInstalled(
            f"the engine {engine_id!r} is not installed ({standing.problem}): "
            f"run `ekiben engine install {engine_id}`"
        )
    reason = next((broken.reason for broken in plugins.broken if broken.id == engine_id), None)
    raise EngineNotInstalled(
        f"the engine {engine_id!r} cannot be used: {reason}"
        if reason
        else f"there is no engine {engine_id!r}: install the package that brings it"
    )


def _options(manifest: Manifest, assignment: Assignment) -> dict[str, object]:
    assert manifest.engine is not None, "discovery lets no engine pass without its section"
    variant = assignment.chosen
    wrong = problems(manifest.engine.options, variant.options)
    if wrong:
        reasons = "; ".join(f"option {name!r} {reason}" for name, reason in wrong)
        raise LoadFailed(f"{assignment.model.name!r} cannot be loaded by {variant.engine!r}: {reasons}")
    return manifest.engine.defaults() | _of_the_model(manifest.engine, assignment.model) | variant.options


def _of_the_model(section: EngineSection, model: ModelSpec) -> dict[str, object]:
    """What the spec says once for all its variants."""
    has_option = model.chat_template is not None and CHAT_TEMPLATE in section.options
    return {CHAT_TEMPLATE: model.chat_template} if has_option else {}


def _need_report(estimate: MemoryEstimate, devices: tuple[Device, ...]) -> Report:
    """Of the whole process: what it holds already, and what the engine adds."""
    held = host_bytes(os.getpid()) or 0
    on_host = devices[0].kind == "cpu"
    return Report(
        stage=Stage.STARTING,
        memory_bytes=held + estimate.total_bytes * len(devices) + (0 if on_host else estimate.host_bytes),
        host_bytes=held + (estimate.total_bytes if on_host else estimate.host_bytes),
        device_bytes=None if on_host else estimate.total_bytes,
    )


def _check_abilities(loaded: LoadedModel, model: ModelSpec, engine_id: str) -> None:
    lacking = sorted(a.value for a in model.abilities if not has_ability(loaded, a))
    if lacking:
        raise LoadFailed(
            f"{model.name!r} is said to {', '.join(lacking)}, which {engine_id!r} did not make it able to: "
            "correct the abilities of its spec"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
