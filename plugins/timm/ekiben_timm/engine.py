"""The timm engine: a folder as timm saves it, or a checkpoint, becomes a model that classifies pictures."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import Ability, Batching, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread
from ekiben_timm.weights import Weights, look

MAX_PIXELS_TOGETHER: Final = 4_000_000
"""Of the pictures in one batch, as the model sees them; one alone may have more."""
_ACTIVATION_BYTES_PER_PIXEL: Final = 440
"""At the peak: the first layers of a network of convolutions hold the most; measured."""
_LIBRARY_BYTES: Final = 460 * 2**20
"""What torch and timm hold by themselves; measured."""
_GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for."""


class Timm:
    """The engine of the manifest."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """The library computes with float32, whatever the file holds."""
        weights = look(request.weights, request.options)
        one, many = weights.recipe.pixels, int(request.options["pictures"])
        working = max(one, min(one * many, MAX_PIXELS_TOGETHER)) * _ACTIVATION_BYTES_PER_PIXEL
        library = 0 if "timm" in sys.modules else _LIBRARY_BYTES
        on_cpu = request.device.kind == "cpu"
        return MemoryEstimate(
            weights_bytes=weights.float32_bytes,
            working_bytes=working + (library if on_cpu else 0),
            host_bytes=0 if on_cpu else library + _GPU_HOST_BYTES,
        )

    async def load(self, request: LoadRequest) -> LoadedTimm:
        """On a thread, since the imports alone take seconds. Raises LoadFailed."""
        weights = look(request.weights, request.options)
        loader = WorkerThread("timm")
        try:
            batching = await loader.run(_open, weights, request)
        finally:
            loader.close()
        request.report(1.0)
        return LoadedTimm(batching)


class LoadedTimm:
    """One model in memory. The runtime's batcher asks it."""

    def __init__(self, batching: Batching[Any, Any, Any, Any]) -> None:
        self._batching = {Ability.CLASSIFY: batching}

    @property
    def batching(self) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
        return self._batching

    async def unload(self) -> None:
        """Free the model, as soon as a batch that still runs has ended."""
        self._batching.clear()
        gc.collect()


def _open(weights: Weights, request: LoadRequest) -> Batching[Any, Any, Any, Any]:
    from ekiben_timm.opening import open_classifier

    return open_classifier(weights, request, max_length=MAX_PIXELS_TOGETHER)
