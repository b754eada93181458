"""sentence-transformers as an engine: judging a folder, estimating it, and loading it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from ekiben.contract import LoadedModel, LoadRequest, MemoryEstimate
from ekiben_sentence_transformers.folder import ModelFolder
from ekiben_sentence_transformers.sizes import batch_length

WIDTH_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 4}
"""While it is loaded: int8 is made of float32. Another backend than torch has its own beside torch's."""
LIBRARY_BYTES: Final = 400 * 2**20
"""What torch and transformers hold by themselves."""
ACTIVATION_BYTES: Final = 96
"""Of one token in one hidden dimension, at the peak of a batch; measured."""
BACKEND_BYTES: Final = 350 * 2**20
"""What another backend than torch holds, the export and all that makes it among it; measured."""
GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for; the rest is `LIBRARY_BYTES`."""


class SentenceTransformers:
    """The Engine."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        folder = ModelFolder(request.weights)
        folder.check()
        width = WIDTH_BYTES[str(request.options["dtype"])]
        tokens = batch_length(request, folder)
        library = 0 if "torch" in sys.modules else LIBRARY_BYTES
        on_host = request.device.kind == "cpu"
        other = request.options["backend"] != "torch"
        held = (library if on_host else 0) + (BACKEND_BYTES if other else 0)
        return MemoryEstimate(
            weights_bytes=folder.parameters() * width * (2 if other else 1),
            working_bytes=tokens * folder.hidden_size() * ACTIVATION_BYTES + held,
            host_bytes=library + GPU_HOST_BYTES,
        )

    async def load(self, request: LoadRequest) -> LoadedModel:
        folder = ModelFolder(request.weights)
        folder.check()
        return await asyncio.to_thread(_open, folder, request)


def _open(folder: ModelFolder, request: LoadRequest) -> LoadedModel:
    """On a thread, since the imports alone take seconds."""
    from ekiben_sentence_transformers.opening import open_model

    request.report(0.5)
    loaded = open_model(folder, request)
    request.report(1.0)
    return loaded
