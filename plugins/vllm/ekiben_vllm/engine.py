"""vLLM as an engine: judging a folder, estimating it, and bringing it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ekiben.contract import LoadedModel, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread
from ekiben_vllm import failures, options
from ekiben_vllm.folder import ModelFolder
from ekiben_vllm.formats import knowledge
from ekiben_vllm.memory import estimate

if TYPE_CHECKING:
    from ekiben_vllm.service import Service


class Vllm:
    """The Engine."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        folder = ModelFolder(request.weights)
        options.engine_arguments(folder, request)  # refuses what `load` would
        return estimate(folder, request)

    async def load(self, request: LoadRequest) -> LoadedModel:
        options.check_devices(request)
        folder = ModelFolder(request.weights)
        arguments = options.engine_arguments(folder, request)
        worker = WorkerThread("vllm")
        try:
            service = await worker.run(_open, folder, request, arguments)
            await service.load_adapters()
        except Exception as error:
            worker.close()
            raise failures.load_failure(error) from error
        request.report(1.0)
        return _model(folder, request, service, worker)


def _open(folder: ModelFolder, request: LoadRequest, arguments: Mapping[str, Any]) -> Service:
    """On the worker: it blocks, and the imports alone take seconds where no zygote has done them."""
    import ekiben_vllm.library  # noqa: F401 - sets what must be set before vllm is imported
    from ekiben_vllm.service import Service, adapter_name, open_engine

    request.report(0.1)
    # One thread is left to the process that schedules and answers, as vLLM's own server does.
    engine = open_engine(arguments, threads=max(1, request.threads - 1), devices=len(request.devices))
    request.report(0.9)
    name = request.model.name
    return Service(
        engine,
        name=name,
        adapters={adapter_name(name, adapter): path for adapter, path in request.adapters.items()},
        template=request.options.get("chat_template"),
        tool_parser=options.tool_parser(folder, request.options),
        reasoning_parser=options.reasoning_parser(folder, request.options),
    )


def _model(folder: ModelFolder, request: LoadRequest, service: Service, worker: WorkerThread) -> LoadedModel:
    from ekiben_vllm.model import VllmModel
    from ekiben_vllm.sleep import SleepyModel

    kind = SleepyModel if options.sleeps(request) else VllmModel
    known = knowledge(options.template_of(folder, request.options))
    return kind(service, worker, name=request.model.name, known=known)
