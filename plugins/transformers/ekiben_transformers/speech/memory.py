"""How much memory a model that speaks will take."""

from __future__ import annotations

import sys
from typing import Final

from ekiben.contract import LoadRequest, MemoryEstimate
from ekiben_transformers.memory import GPU_HOST_BYTES, LIBRARY_BYTES
from ekiben_transformers.speech.folder import SpeakingFolder

SPEECH_BYTES: Final = 400 * 2**20
"""The longest piece in the making: some fifteen seconds of sound, in all the channels of the last layers."""


def estimate(folder: SpeakingFolder, request: LoadRequest) -> MemoryEstimate:
    """In float32, whatever the file has."""
    weights = sum(values * 4 for _, values in folder.tensors().values())
    library = 0 if "torch" in sys.modules else LIBRARY_BYTES
    if request.device.kind == "cpu":
        return MemoryEstimate(weights_bytes=weights, working_bytes=SPEECH_BYTES + library)
    return MemoryEstimate(
        weights_bytes=weights, working_bytes=SPEECH_BYTES, host_bytes=library + GPU_HOST_BYTES
    )
