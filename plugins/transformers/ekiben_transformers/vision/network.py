"""The network of a model that sees: pictures made into tensors, and one pass of many, which can be ended.

Imports torch. Blocking.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from ekiben.contract import GivenUp, InvalidRequest, Item, Run
from ekiben_transformers.vision.memory import MAX_PIXELS_TOGETHER


class Seen(dict[str, torch.Tensor]):
    """One picture as the model takes it, by the names of the model's arguments."""

    size: tuple[int, int]
    """Height and width of the picture as it was sent."""


class Network:
    """One batch at a time. A pass ends between two layers when nobody waits for it any more."""

    def __init__(self, model: Any, processor: Any, *, max_items: int) -> None:
        self.model = model
        self.processor = processor
        self.max_items = max_items
        self.max_length = MAX_PIXELS_TOGETHER
        self._run: Run | None = None
        for layer in model.modules():
            layer.register_forward_pre_hook(self._look)

    def item(self, image: bytes, *, group: object = None) -> Item[Seen]:
        """A picture made ready; only those of equal shape are computed together. Raises InvalidRequest."""
        try:
            picture = Image.open(io.BytesIO(image)).convert("RGB")
        except Exception as error:
            raise InvalidRequest("the picture is broken", param="image") from error
        try:
            made = self.processor(images=picture, return_tensors="pt")
        except ValueError as error:
            raise InvalidRequest(f"the picture cannot be made ready: {error}", param="image") from error
        seen = Seen({name: value for name, value in made.items() if name in ("pixel_values", "pixel_mask")})
        seen.size = (picture.height, picture.width)
        height, width = seen["pixel_values"].shape[-2:]
        return Item(seen, length=height * width, group=(group, height, width))

    def prepare(self, pictures: Sequence[Seen]) -> dict[str, torch.Tensor]:
        """All in one tensor each, on the device and in its number format."""
        joined = {name: torch.cat([seen[name] for seen in pictures]) for name in pictures[0]}
        joined["pixel_values"] = joined["pixel_values"].to(self.model.dtype)
        return {name: tensor.to(self.model.device) for name, tensor in joined.items()}

    def compute(self, inputs: Mapping[str, torch.Tensor], run: Run) -> Any:
        """What the model says. Raises GivenUp."""
        self._run = run
        try:
            with torch.inference_mode():
                return self.model(**inputs)
        finally:
            self._run = None

    def _look(self, *_: object) -> None:
        if self._run is not None and not self._run.wanted:
            raise GivenUp
