"""sentence-transformers as an engine: judging a folder, estimating it, and loading it."""

from __future__ import annotations

import sys
from typing import Final

from ekiben.contract import LoadedModel, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread
from ekiben_sentence_transformers.folder import ModelFolder

WIDTH_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
LIBRARY_BYTES: Final = 400 * 2**20
"""What torch and transformers hold by themselves."""
ACTIVATION_BYTES: Final = 96
"""Of one token in one hidden dimension, at the peak of a batch; measured."""
GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for; the rest is `LIBRARY_BYTES`."""
LONGEST_TOKENS: Final = 2048
"""Inputs this long come few to a batch, so more of them together are not reckoned with."""


class SentenceTransformers:
    """The Engine."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        folder = ModelFolder(request.weights)
        folder.check()
        width = WIDTH_BYTES[str(request.options["dtype"])]
        length = min(LONGEST_TOKENS, int(request.options.get("max_length", folder.max_length())))
        tokens = int(request.options["batch_size"]) * length
        library = 0 if "torch" in sys.modules else LIBRARY_BYTES
        on_host = request.device.kind == "cpu"
        return MemoryEstimate(
            weights_bytes=folder.parameters() * width,
            working_bytes=tokens * folder.hidden_size() * ACTIVATION_BYTES + (library if on_host else 0),
            host_bytes=library + GPU_HOST_BYTES,
        )

    async def load(self, request: LoadRequest) -> LoadedModel:
        folder = ModelFolder(request.weights)
        folder.check()
        worker = WorkerThread("sentence-transformers")
        return await worker.run(_open, folder, request, worker)


def _open(folder: ModelFolder, request: LoadRequest, worker: WorkerThread) -> LoadedModel:
    """On the worker, since the imports alone take seconds."""
    from ekiben_sentence_transformers.embedder import Embedder, SleepyEmbedder
    from ekiben_sentence_transformers.encoder import Encoder

    request.report(0.5)
    encoder = Encoder(folder, request)
    request.report(1.0)
    batch_size = int(request.options["batch_size"])
    if request.device.kind == "cpu":
        return Embedder(encoder, worker, batch_size=batch_size)
    return SleepyEmbedder(encoder, worker, batch_size=batch_size, device=str(request.device))
