"""How much memory a model that hears will take."""

from __future__ import annotations

import sys
from typing import Final

from ekiben.contract import LoadRequest, MemoryEstimate
from ekiben_transformers.hearing.folder import HearingFolder
from ekiben_transformers.memory import GPU_HOST_BYTES, LIBRARY_BYTES, WIDTH_BYTES

FRAMES: Final = 1500
"""Of half a minute, as the encoder sees it."""
LAYERS_AT_ONCE: Final = 24
"""Rows of its width that are there at the peak, for each frame: the layer under way, and its attention."""
SCORES_BYTES: Final = 4 * 3
"""Of each token of the vocabulary, at each step: the library keeps all, and copies them to judge the text.

Measured: silence takes half of it, noise that is heard as long texts a quarter more.
"""


def estimate(folder: HearingFolder, request: LoadRequest, *, dtype: str) -> MemoryEstimate:
    width = WIDTH_BYTES[dtype]
    weights = sum(values * width for _, values in folder.tensors().values())
    config = folder.json("config.json")
    row = int(config.get("d_model") or 512) * width
    steps = int(config.get("max_target_positions") or 448) // 2
    scores = steps * int(config.get("vocab_size") or 51865) * SCORES_BYTES
    kept = 2 * int(config.get("decoder_layers") or 6)  # keys and values of what was heard
    working = (FRAMES * row * (LAYERS_AT_ONCE + kept) + scores) * int(request.options["windows"])
    library = 0 if "torch" in sys.modules else LIBRARY_BYTES
    if request.device.kind == "cpu":
        return MemoryEstimate(weights_bytes=weights, working_bytes=working + library)
    return MemoryEstimate(weights_bytes=weights, working_bytes=working, host_bytes=library + GPU_HOST_BYTES)
