"""When each word was said, found by the library in what the decoder looked at.

With two things of our own: the sound is not encoded again, and the best path is found with NumPy. The library
compiles its own search for seconds, in the first request, and starts threads for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from whisper import timing  # type: ignore[import-untyped]
from whisper.model import Whisper  # type: ignore[import-untyped]

_DIAGONAL, _UP, _LEFT = range(3)


class _Encoded:
    """What the library asks of a model, where it gets what was encoded already instead of a spectrogram."""

    def __init__(self, model: Whisper) -> None:
        self.device = model.device
        self.dims = model.dims
        self.decoder = model.decoder
        self.alignment_heads = model.alignment_heads

    def __call__(self, encoded: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.decoder(tokens, encoded)
        return logits


def add_words(
    model: Whisper,
    tokenizer: Any,
    segments: Sequence[dict[str, Any]],
    *,
    encoded: torch.Tensor,
    frames: int,
) -> None:
    """Each segment gets `words`, and begins and ends with them. Times are those of the window.

    `frames`: of the spectrogram, without what it was filled up with.
    """
    timing.add_word_timestamps(
        segments=list(segments),
        model=_Encoded(model),
        tokenizer=tokenizer,
        mel=encoded,
        num_frames=frames,
        last_speech_timestamp=0.0,
    )


def best_path(costs: torch.Tensor) -> NDArray[np.intp]:
    """Rows and columns of the cheapest way from the first corner to the last: as the library finds it."""
    return _way(_steps(costs.double().cpu().numpy()))


def _steps(costs: NDArray[np.float64]) -> NDArray[np.int8]:
    """From where each cell is reached. Cells of one diagonal do not need each other, so they go together."""
    rows, columns = costs.shape
    cost = np.zeros((rows + 1, columns + 1))
    cost[1:, 1:] = costs
    total = np.full((rows + 1, columns + 1), np.inf, np.float32)
    total[0, 0] = 0
    steps = np.full((rows + 1, columns + 1), _LEFT, np.int8)
    flat_cost, flat_total, flat_steps = cost.ravel(), total.ravel(), steps.ravel()
    width = columns + 1
    for diagonal in range(2, rows + columns + 1):
        first, last = max(1, diagonal - columns), min(rows, diagonal - 1)
        begin, end = diagonal + first * columns, diagonal + last * columns + 1
        here = slice(begin, end, columns)
        corner, up, left = (flat_total[begin - back : end - back : columns] for back in (width + 1, width, 1))
        is_corner, is_up = (corner < up) & (corner < left), (up < corner) & (up < left)
        step = np.where(is_corner, _DIAGONAL, np.where(is_up, _UP, _LEFT))
        flat_steps[here] = step
        flat_total[here] = flat_cost[here] + np.choose(step, (corner, up, left))
    steps[0, :] = _LEFT
    steps[:, 0] = _UP
    return steps


def _way(steps: NDArray[np.int8]) -> NDArray[np.intp]:
    row, column = steps.shape[0] - 1, steps.shape[1] - 1
    way = []
    while row > 0 or column > 0:
        way.append((row - 1, column - 1))
        step = steps[row, column]
        row -= step != _LEFT
        column -= step != _UP
    return np.array(way[::-1], dtype=np.intp).T


timing.dtw = best_path  # it is looked up there, by the function that `add_words` calls
