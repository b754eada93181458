"""The classes of pictures: many of them in one pass, which can be ended. Imports torch; blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ekiben.contract import ClassifyRequest, GivenUp, Item, Label, Run, UnsupportedParameter
from ekiben_timm.pictures import Seen, look_at
from ekiben_timm.recipe import Recipe


class Classification:
    """Batching. A pass ends between two layers when nobody waits for it any more."""

    def __init__(
        self, model: Any, recipe: Recipe, names: Sequence[str], *, max_items: int, max_length: int
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._recipe = recipe
        self._names = list(names)
        self._run: Run | None = None
        self.max_items = max_items
        self.max_length: int | None = max_length
        for layer in model.modules():
            layer.register_forward_pre_hook(self._look)

    def items(self, request: ClassifyRequest) -> list[Item[Seen]]:
        """The picture made ready: all have one size then. Raises InvalidRequest."""
        if request.labels:
            raise UnsupportedParameter("this model has labels of its own: leave out 'labels'", param="labels")
        return [Item(look_at(request.image, self._recipe), length=self._recipe.pixels)]

    def prepare(self, values: Sequence[Seen]) -> torch.Tensor:
        return torch.from_numpy(np.stack(values)).to(self._device)

    def compute(self, prepared: torch.Tensor, run: Run) -> list[list[float]]:
        """The share of each class. Raises GivenUp."""
        self._run = run
        try:
            with torch.inference_mode():
                shares: list[list[float]] = self._model(prepared).float().softmax(-1).tolist()
        finally:
            self._run = None
        return shares

    def answer(self, request: ClassifyRequest, results: Sequence[list[float]]) -> list[Label]:
        pairs = sorted(zip(self._names, results[0], strict=True), key=lambda pair: -pair[1])
        return [Label(label=name, score=score) for name, score in pairs]

    def _look(self, *_: object) -> None:
        if self._run is not None and not self._run.wanted:
            raise GivenUp
