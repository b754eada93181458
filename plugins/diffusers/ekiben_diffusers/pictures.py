"""Pictures on their way into a pipeline and out of it, as the library's own image type."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from ekiben.contract import InvalidRequest, Pixels


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height, from the header."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def opened(data: bytes, size: tuple[int, int]) -> Image.Image:
    """In colours, and of the size that is to come out."""
    with Image.open(io.BytesIO(data)) as image:
        plain = image.convert("RGB")
    return plain if plain.size == size else plain.resize(size, Image.Resampling.LANCZOS)


def mask_of(data: bytes, size: tuple[int, int]) -> Image.Image:
    """White where it is to be painted: what is transparent, or white where nothing is."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "RGBA":
            mask = image.getchannel("A").point(lambda alpha: 255 - alpha)
        else:
            mask = image.convert("L")
    return mask if mask.size == size else mask.resize(size, Image.Resampling.NEAREST)


def check_mask(mask: bytes, first: bytes) -> None:
    """Raises InvalidRequest when it is of another size than the picture."""
    if (of_mask := size_of(mask)) != (of_first := size_of(first)):
        raise InvalidRequest(
            f"'mask' has {of_mask[0]}x{of_mask[1]} pixels and the picture {of_first[0]}x{of_first[1]}: "
            "send them in one size",
            param="mask",
        )


def fitting(size: tuple[int, int], *, step: int, most: int) -> tuple[int, int]:
    """The nearest size of about the same shape that can be made: in multiples of `step`, `most` pixels."""
    width, height = size
    scale = min(1.0, (most / (width * height)) ** 0.5)
    wide, high = (max(step, int(side * scale) // step * step) for side in (width, height))
    # A strip that is thinner than one step was made wider by the line above.
    return min(wide, max(step, most // high // step * step)), min(
        high, max(step, most // wide // step * step)
    )


def pixels_of(image: Any) -> Pixels:
    """Of one of the library's results."""
    plain = image.convert("RGB")
    return Pixels(width=plain.width, height=plain.height, data=plain.tobytes())
