"""The whisper engine: OpenAI's checkpoints, and CTranslate2 folders, become a model that transcribes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from ekiben.contract import Ability, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread

if TYPE_CHECKING:
    from ekiben_whisper.listener import Listener

_LIBRARY_BYTES: Final = 450 * 2**20
"""What torch and the library hold by themselves."""
_GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for."""
_CPU_BATCH: Final = 4
"""More gains little there, and has others wait."""
_GPU_BATCH: Final = 16
_FRAMES: Final = 1500
"""Of half a minute, as the encoder sees it."""
_ENCODER_ROWS: Final = 24
"""Of its width, for each frame: what is there at the peak of a layer; measured."""


class Whisper:
    """The engine of the manifest."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """Files hold 16-bit numbers mostly; the CPU computes with float32."""
        from ekiben_whisper.weights import look

        dims = look(request.weights).dimensions
        on_cpu = request.device.kind == "cpu"
        width = 4 if on_cpu else 2
        batch = _batch_size(request)
        readings = batch * int(request.options["beam_size"])
        kept = 2 * dims.n_text_layer * _FRAMES * dims.n_text_state * width
        encoding = _FRAMES * dims.n_audio_state * width * _ENCODER_ROWS * (1 if on_cpu else batch)
        scores = readings * dims.n_vocab * 4 * 6
        working = readings * kept + encoding + scores
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
