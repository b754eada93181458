"""How a picture is made ready for a model, as `pretrained_cfg` says: resize, cut, and numbers around zero.

The same numbers as timm's own transforms for evaluation give, with Pillow and NumPy alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ekiben.contract import InvalidRequest, LoadFailed

MAX_SIDE: Final = 2048
"""Of what a model sees."""
MAX_RESIZED_PIXELS: Final = 16_000_000
"""Of a picture between resizing and cutting: a very long one would become larger than any picture is."""
_MODES: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
_CROPS: Final = ("center", "squash", "border")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    height: int
    width: int
    scale: float
    """Which part of the resized picture's side is looked at."""
    crop: str
    resampling: Image.Resampling
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
                resampling=_MODES[str(config.get("interpolation") or "bicubic")],
                mean=_three(config.get("mean") or (0.485, 0.456, 0.406)),
                deviation=_three(config.get("std") or (0.229, 0.224, 0.225)),
            )
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise LoadFailed(f"pretrained_cfg does not say how pictures are made ready: {error}") from None
        if channels != 3:
            raise LoadFailed(f"the model takes pictures of {channels} channels, and requests bring three")
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and 0.1 <= recipe.scale <= 2):
            raise LoadFailed(f"the model takes pictures of {width} x {height}, cut to {recipe.scale:g} of it")
        if recipe.crop not in _CROPS or min(recipe.deviation) <= 0:
            raise LoadFailed(
                f"pretrained_cfg asks for the cut {recipe.crop!r}: {', '.join(_CROPS)} are known"
            )
        return recipe

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def read(self, image: bytes) -> NDArray[np.float32]:
        """Channels, rows and columns of a picture as the model sees it. Raises InvalidRequest."""
        try:
            picture = Image.open(io.BytesIO(image)).convert("RGB")
        except Exception as error:
            raise InvalidRequest("the picture is broken", param="image") from error
        width, height = self._resized(picture.width, picture.height)
        if width * height > MAX_RESIZED_PIXELS:
            raise InvalidRequest(
                f"the picture of {picture.width} x {picture.height} is too long for its width: cut it",
                param="image",
            )
        seen = self._cut(picture.resize((width, height), self.resampling))
        numbers = np.asarray(seen, np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, deviation = (np.array(three, np.float32) for three in (self.mean, self.deviation))
        return np.ascontiguousarray((numbers - mean[:, None, None]) / deviation[:, None, None])

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        across, down = math.floor(self.width / self.scale), math.floor(self.height / self.scale)
        if self.crop == "squash":
            return across, down
        if self.crop == "center" and across == down:  # the library rounds down here, and nowhere else
            short = min(width, height)
            return max(1, int(across * width / short)), max(1, int(across * height / short))
        choose = max if self.crop == "border" else min
        ratio = choose(width / across, height / down)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _cut(self, picture: Image.Image) -> Image.Image:
        """The middle; what is missing there is filled up on all sides."""
        missing = (max(0, self.width - picture.width), max(0, self.height - picture.height))
        if any(missing):
            size = (picture.width + missing[0], picture.height + missing[1])
            fill = tuple(round(255 * part) for part in self.mean) if self.crop == "border" else (0, 0, 0)
            filled = Image.new("RGB", size, fill)
            filled.paste(picture, (missing[0] // 2, missing[1] // 2))
            picture = filled
        left, top = round((picture.width - self.width) / 2), round((picture.height - self.height) / 2)
        return picture.crop((left, top, left + self.width, top + self.height))


def _three(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if len(found) != 3 or not all(map(math.isfinite, found)):
        raise ValueError(f"{values!r} are not three numbers")
    return found
