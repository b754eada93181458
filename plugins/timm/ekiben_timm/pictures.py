"""Pictures made ready for a model: resized, cut, and numbers around zero.

The same numbers as timm's own transforms for evaluation give, with Pillow and NumPy alone. Blocking.
"""

from __future__ import annotations

import io
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ekiben.contract import InvalidRequest
from ekiben_timm.recipe import Recipe

Seen: TypeAlias = NDArray[np.float32]
"""Channels, rows and columns of a picture as the model sees it."""
MAX_RESIZED_PIXELS: Final = 16_000_000
"""Of a picture between resizing and cutting: a very long one would become larger than any picture is."""


def look_at(image: bytes, recipe: Recipe) -> Seen:
    """Raises InvalidRequest."""
    try:
        picture = Image.open(io.BytesIO(image)).convert("RGB")
    except Exception as error:
        raise InvalidRequest("the picture is broken", param="image") from error
    width, height = recipe.resized(picture.width, picture.height)
    if width * height > MAX_RESIZED_PIXELS:
        raise InvalidRequest(
            f"the picture of {picture.width} x {picture.height} is too long for its width: cut it",
            param="image",
        )
    seen = _cut(picture.resize((width, height), Image.Resampling[recipe.resampling.upper()]), recipe)
    numbers = np.asarray(seen, np.float32).transpose(2, 0, 1) / np.float32(255)
    mean, deviation = (np.array(three, np.float32) for three in (recipe.mean, recipe.deviation))
    return np.ascontiguousarray((numbers - mean[:, None, None]) / deviation[:, None, None])


def _cut(picture: Image.Image, recipe: Recipe) -> Image.Image:
    """The middle; what is missing there is filled up on all sides."""
    missing = (max(0, recipe.width - picture.width), max(0, recipe.height - picture.height))
    if any(missing):
        size = (picture.width + missing[0], picture.height + missing[1])
        fill = tuple(round(255 * part) for part in recipe.mean) if recipe.crop == "border" else (0, 0, 0)
        filled = Image.new("RGB", size, fill)
        filled.paste(picture, (missing[0] // 2, missing[1] // 2))
        picture = filled
    left, top = round((picture.width - recipe.width) / 2), round((picture.height - recipe.height) / 2)
    return picture.crop((left, top, left + recipe.width, top + recipe.height))
