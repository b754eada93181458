"""The whisper engine: OpenAI's checkpoints, and CTranslate2 folders, become a model that transcribes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from ekiben.contract import Ability, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread

if TYPE_CHECKING:
    from ekiben_whisper.listener import Listener

_LIBRARY_BYTES: Final = 350 * 2**20
"""What torch and the library hold by themselves; measured."""
_GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for."""
_CPU_BATCH: Final = 4
"""More gains little there, and has others wait."""
_GPU_BATCH: Final = 16


class Whisper:
    """The engine of the manifest."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """Files hold 16-bit numbers mostly; the CPU computes with float32."""
        from ekiben_whisper.memory import working_bytes
        from ekiben_whisper.weights import look

        dims = look(request.weights).dimensions
        on_cpu = request.device.kind == "cpu"
        width = 4 if on_cpu else 2
        working = working_bytes(
            dims,
            width_bytes=width,
            windows=_batch_size(request),
            encoded_together=1 if on_cpu else _batch_size(request),
            readings=int(request.options["beam_size"]),
        )
        library = 0 if "whisper" in sys.modules else _LIBRARY_BYTES
        return MemoryEstimate(
            weights_bytes=dims.values * width,
            working_bytes=working + (library if on_cpu else 0),
            host_bytes=0 if on_cpu else library + _GPU_HOST_BYTES,
        )

    async def load(self, request: LoadRequest) -> LoadedWhisper:
        """Read the weights, in a thread. Raises LoadFailed."""
        worker = WorkerThread("whisper")
        try:
            listener = await worker.run(_listener, request)
        finally:
            worker.close()
        request.report(1.0)
        return LoadedWhisper(listener)


class LoadedWhisper:
    """One model in memory, which the runtime gives windows of many requests to hear together."""

    def __init__(self, listener: Listener) -> None:
        self.batching = {Ability.TRANSCRIBE: listener, Ability.TRANSLATE: listener}

    async def unload(self) -> None:
        """Free the model, as soon as a step that still runs has ended."""
        self.batching = {}


def _listener(request: LoadRequest) -> Listener:
    import torch

    from ekiben_whisper.conversion import ConvertibleFolder
    from ekiben_whisper.listener import Listener
    from ekiben_whisper.model import build
    from ekiben_whisper.weights import look

    if request.device.kind == "cpu":
        torch.set_num_threads(request.threads)
    found = look(request.weights)
    if isinstance(found, ConvertibleFolder):
        found = found.converted(request.cache or request.scratch)
    request.report(0.3)
    options = request.options
    return Listener(
        build(found, device=request.device),
        beam_size=int(options["beam_size"]),
        max_items=_batch_size(request),
        max_duration_s=float(options["max_duration_s"]),
    )


def _batch_size(request: LoadRequest) -> int:
    chosen = int(request.options["batch_size"])
    return chosen or (_CPU_BATCH if request.device.kind == "cpu" else _GPU_BATCH)
