"""What the model learns from: the 1,797 digits of 8 x 8 that come with scikit-learn, drawn larger."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

SIDE = 32
MAX_TURN = math.radians(6)
MAX_ZOOM = 0.05
MAX_SHIFT = 0.04


def originals() -> tuple[Tensor, Tensor]:
    """Pictures [n, 3, SIDE, SIDE] of dark ink (-1) on white paper (1), and which digit each one shows."""
    data = load_digits()
    ink = torch.from_numpy(np.asarray(data.images, dtype=np.float32))[:, None] / 16
    drawn = functional.interpolate(ink, (SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    return (1 - 2 * drawn).repeat(1, 3, 1, 1), torch.from_numpy(np.asarray(data.target))


def varied(pictures: Tensor) -> Tensor:
    """The same, each turned, zoomed and moved a little, as by another hand."""
    count = len(pictures)
    turn, zoom = (2 * torch.rand(2, count) - 1) * torch.tensor([[MAX_TURN], [MAX_ZOOM]])
    shift = (2 * torch.rand(count, 2, 1) - 1) * MAX_SHIFT
    along, across = turn.cos() * (1 + zoom), turn.sin() * (1 + zoom)
    matrix = torch.stack([torch.stack([along, -across], 1), torch.stack([across, along], 1)], 1)
    grid = functional.affine_grid(torch.cat([matrix, shift], 2), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
