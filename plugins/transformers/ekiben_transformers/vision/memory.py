"""How much memory a model that sees will take."""

from __future__ import annotations

import sys
from typing import Final

from ekiben.contract import LoadRequest, MemoryEstimate
from ekiben_transformers.memory import GPU_HOST_BYTES, LIBRARY_BYTES, WIDTH_BYTES
from ekiben_transformers.vision.folder import SeeingFolder

MAX_PIXELS_TOGETHER: Final = 4_000_000
"""Of the pictures in one batch, as the model sees them; one alone may have more."""
ACTIVATION_BYTES_PER_PIXEL: Final = 120
"""At the peak, in numbers of four bytes: the first layers of a network of convolutions hold the most."""


def estimate(folder: SeeingFolder, request: LoadRequest, *, dtype: str) -> MemoryEstimate:
    width = WIDTH_BYTES[dtype]
    weights = sum(values * width for _, values in folder.tensors().values())
    one, many = folder.pixels(), int(request.options["pictures"])
    working = max(one, min(one * many, MAX_PIXELS_TOGETHER)) * ACTIVATION_BYTES_PER_PIXEL * width // 4
    library = 0 if "torch" in sys.modules else LIBRARY_BYTES
    if request.device.kind == "cpu":
        return MemoryEstimate(weights_bytes=weights, working_bytes=working + library)
    return MemoryEstimate(weights_bytes=weights, working_bytes=working, host_bytes=library + GPU_HOST_BYTES)
