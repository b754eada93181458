"""How much memory the model's work takes at most, besides its weights."""

from __future__ import annotations

from typing import Final

from ekiben_whisper.dimensions import Dimensions

_ENCODER_ROWS: Final = 24
"""Of its width, for each frame of a window: what is there at the peak of a layer."""
_KEPT_SHARE: Final = 1.5
"""Of keys and values, what is there at the peak: those of a layer are copied to be multiplied."""
_SCORE_BYTES: Final = 4
"""Scores are in float32 on every device."""


def working_bytes(
    dims: Dimensions, *, width_bytes: int, windows: int, encoded_together: int, readings: int
) -> int:
    """`readings`: of each window, at once."""
    row = dims.n_audio_ctx * dims.n_audio_state * width_bytes
    encoding = encoded_together * row * _ENCODER_ROWS
    kept = windows * readings * row * 2 * dims.n_text_layer
    return int(encoding + kept * _KEPT_SHARE) + _aligning_bytes(dims)


def _aligning_bytes(dims: Dimensions) -> int:
    """The times of words are found for one window at a time, by all scores and by where all heads look."""
    tokens = dims.n_text_ctx // 2
    scores = 2 * tokens * dims.n_vocab
    looks = dims.n_text_layer * dims.n_text_head * tokens * dims.n_audio_ctx
    return (scores + looks) * _SCORE_BYTES
