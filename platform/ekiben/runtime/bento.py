"""What turns a family's class into a Bento: the BentoML service behind `bentos/*/service.py`.

A service file is a few lines: `@bentoml.service(service_class=EkibenService, …)` over a class derived
from its family's base. Whoever serves it, `bentoml serve` or the platform, gets the application of
`ekiben.runtime.asgi`.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml.exceptions import BentoMLConfigException
from pydantic import BaseModel, ConfigDict

from ekiben.contract.model import Family
from ekiben.errors import EkibenError
from ekiben.runtime import standalone
from ekiben.runtime.asgi import Application, ReplicaApp
from ekiben.runtime.host import Assignment, ModelHost, assignment_of, prepare_load
from ekiben.runtime.native import AudioBento, EmbeddingBento, FamilyBento, LlmBento, VisionBento
from ekiben.runtime.process.parent import follow_supervisor, mark_supervisor, tell_supervisor_of_failure
from ekiben.runtime.protocol import Order, Report, Stage
from ekiben.settings import load_standalone_settings

__all__ = ["AudioBento", "EkibenService", "EmbeddingBento", "LlmBento", "VisionBento"]

T = TypeVar("T")


class Arguments(BaseModel):
    """What `bentoml serve --arg` and `bentoml build --arg` take. Built into a Bento, they are frozen."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None


class EkibenService(bentoml.Service[Any]):  # type: ignore[misc] # no types come with BentoML
    """A BentoML service of one model, whose application answers the OpenAI routes itself."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.host: ModelHost | None = None
        self._prebuilt: Application | None = None
        self._is_replica = False
        self.arguments = bentoml.use_arguments(Arguments)
        # BentoML calls this once, in the process that supervises the workers, before it starts them.
        self.inner.prepare = _DeploymentHook(self)

    @property
    def family(self) -> Family:
        bento: type[FamilyBento] = self.inner
        return bento.family

    def __call__(self) -> Any:
        instance = super().__call__()
        instance.host = self.host
        return instance

    def prebuild(self) -> None:
        """Do now what `application` would take its time for. Of no model yet, and bound to no loop."""
        self._prebuilt = super().to_asgi(is_main=True)

    def needs_task_db(self) -> bool:
        """Whether BentoML is to keep what is submitted: not in a replica, where nobody submits anything."""
        return not self._is_replica and bool(super().needs_task_db())

    def replica_application(self, host: ModelHost) -> ReplicaApp:
        """The application of a process that a platform started."""
        self._is_replica = True
        return self.application(host)

    def application(self, host: ModelHost) -> ReplicaApp:
        """The application that serves the host's model."""
        self.host = host
        bento = self._prebuilt or super().to_asgi(is_main=True)
        return ReplicaApp(bento, host, fetch_urls=load_standalone_settings().fetch_urls)

    def to_asgi(self, is_main: bool = True) -> Any:
        """For BentoML's own server, in a process that it started."""
        # BentoML sets the level of its own loggers only.
        logging.getLogger("ekiben").setLevel(logging.INFO)
        report = standalone.log_report
        if bentoml.server_context.worker_index is not None:
            follow_supervisor()
            report = _report_of_worker
        return self.application(ModelHost(self._assign, report=report))

    async def _assign(self) -> Assignment:
        if (path := load_standalone_settings().order) is not None:
            return assignment_of(Order.model_validate_json(path.read_bytes()))
        return await standalone.assign(self.family, argument=self.arguments.model)


def move_home(home: Path) -> None:
    """Tell BentoML of another home: it has looked already, in the process that this one is a fork of."""
    for name in ("bentos", "envs", "models", "tmp"):
        (home / name).mkdir(parents=True, exist_ok=True)
    models = home / "models"
    BentoMLContainer.bentoml_home.set(str(home))
    BentoMLContainer.model_store_dir.set(str(models))
    BentoMLContainer.model_store.set(ModelStore(models))


def _report_of_worker(report: Report) -> None:
    standalone.log_report(report)
    if report.stage is Stage.FAILED:
        tell_supervisor_of_failure()


class _DeploymentHook:
    """Fails early: what can be known before the port is open is looked at here, in the supervisor."""

    __bentoml_deployment_hook__ = True

    def __init__(self, service: EkibenService) -> None:
        self._service = service

    def __call__(self) -> None:
        logging.getLogger("ekiben").setLevel(logging.INFO)
        mark_supervisor()
        if load_standalone_settings().order is not None:
            return
        try:
            choice = standalone.choose(self._service.family, argument=self._service.arguments.model)
            parcel = _run(standalone.fetch(choice))
            assignment = standalone.assignment_for(choice, parcel, scratch=Path(tempfile.gettempdir()))
            engine, request = prepare_load(assignment, report=lambda progress: None)
            engine.estimate_memory(request)
        except EkibenError as error:
            raise BentoMLConfigException(error.message) from error


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine; in a notebook, whose thread has a loop already, on another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, work).result()
