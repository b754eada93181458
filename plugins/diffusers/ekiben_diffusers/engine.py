"""diffusers as an engine: judging a folder, estimating it, and loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ekiben.contract import LoadedModel, LoadFailed, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread
from ekiben_diffusers import memory
from ekiben_diffusers.folder import PipelineFolder

if TYPE_CHECKING:
    from ekiben_diffusers.model import PictureModel


class Diffusers:
    """The Engine."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        folder = PipelineFolder(request.weights)
        folder.check()
        _check_options(request)
        return memory.estimate(folder, request)

    async def load(self, request: LoadRequest) -> LoadedModel:
        folder = PipelineFolder(request.weights)
        folder.check()
        _check_options(request)
        loader = WorkerThread("load")
        try:
            return await loader.run(_open, folder, request)
        finally:
            loader.close()


def _open(folder: PipelineFolder, request: LoadRequest) -> PictureModel:
    """On a thread, since the imports alone take seconds."""
    from ekiben_diffusers.drawing import Drawing
    from ekiben_diffusers.ensemble import Ensemble
    from ekiben_diffusers.loading import load_adapters, open_pipeline
    from ekiben_diffusers.model import PictureModel
    from ekiben_diffusers.settings import Limits

    pipeline = open_pipeline(folder, request)
    request.report(0.9)
    ensemble = Ensemble(pipeline, adapters=load_adapters(pipeline, request.adapters))
    limits = Limits.of(ensemble, request.options)
    request.report(1.0)
    return PictureModel(Drawing(ensemble, limits))


def _check_options(request: LoadRequest) -> None:
    if request.device.kind != "cpu":
        return
    if request.options.get("offload", "none") != "none":
        raise LoadFailed(
            "the option offload moves weights between a GPU and the host's memory, and there is no GPU here: "
            "leave it out"
        )
    if request.options.get("quantization") == "int4":
        raise LoadFailed("quantization: int4 needs a GPU: use int8, or leave the option out")
    if request.options.get("dtype") == "float16":
        raise LoadFailed("dtype: float16 is not computed in by CPUs: use bfloat16, float32 or auto")
