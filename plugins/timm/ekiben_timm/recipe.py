"""How pictures are to be made ready for a model, as `pretrained_cfg` says; judged without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ekiben.contract import LoadFailed

MAX_SIDE: Final = 1536
"""Of what a model sees."""
_RESAMPLINGS: Final = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROPS: Final = ("center", "squash", "border")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    height: int
    width: int
    scale: float
    """Which part of the resized picture's side is looked at."""
    crop: str
    resampling: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Recipe:
        """From a `pretrained_cfg`; what it leaves out is as in the library. Raises LoadFailed."""
        try:
            channels, height, width = (int(side) for side in config.get("input_size") or (3, 224, 224))
            recipe = cls(
                height=height,
                width=width,
                scale=float(config.get("crop_pct") or 0.875),
                crop=str(config.get("crop_mode") or "center"),
                resampling=str(config.get("interpolation") or "bicubic"),
                mean=_three(config.get("mean") or (0.485, 0.456, 0.406)),
                deviation=_three(config.get("std") or (0.229, 0.224, 0.225)),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise LoadFailed(f"pretrained_cfg does not say how pictures are made ready: {error}") from None
        if channels != 3:
            raise LoadFailed(f"the model takes pictures of {channels} channels, and requests bring three")
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and 0.5 <= recipe.scale <= 2):
            raise LoadFailed(f"the model takes pictures of {width} x {height}, cut to {recipe.scale:g} of it")
        if recipe.crop not in _CROPS or min(recipe.deviation) <= 0:
            raise LoadFailed(
                f"pretrained_cfg asks for the cut {recipe.crop!r}: {', '.join(_CROPS)} are known"
            )
        if recipe.resampling not in _RESAMPLINGS:
            raise LoadFailed(
                f"pretrained_cfg asks for the interpolation {recipe.resampling!r}: "
                f"{', '.join(_RESAMPLINGS)} are known"
            )
        return recipe

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture before it is cut."""
        across, down = math.floor(self.width / self.scale), math.floor(self.height / self.scale)
        if self.crop == "squash":
            return across, down
        if self.crop == "center" and across == down:  # the library rounds down here, and nowhere else
            short = min(width, height)
            return max(1, int(across * width / short)), max(1, int(across * height / short))
        choose = max if self.crop == "border" else min
        ratio = choose(width / across, height / down)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def _three(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if len(found) != 3 or not all(map(math.isfinite, found)):
        raise ValueError(f"{values!r} are not three numbers")
    return found
