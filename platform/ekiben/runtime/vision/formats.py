"""Pixels as the file formats that clients ask for. Pillow is imported on first use."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Final

from ekiben.contract.pictures import Pixels

PNG: Final = "png"
FORMATS: Final = (PNG, "jpeg", "webp")
LOSSY: Final = ("jpeg", "webp")
BEST_QUALITY: Final = 100


@dataclass(frozen=True, slots=True)
class PictureFormat:
    name: str = PNG
    quality: int = BEST_QUALITY
    """Of those that lose something, 0 to 100."""

    def encode(self, pixels: Pixels) -> bytes:
        """The whole file. Blocking."""
        from PIL import Image

        image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
        options: dict[str, Any] = {}
        if self.name in LOSSY:
            options["quality"] = self.quality
        if self.name == "jpeg" and self.quality == BEST_QUALITY:
            options["subsampling"] = 0
        file = io.BytesIO()
        image.save(file, self.name.upper(), **options)
        return file.getvalue()

    def encode_base64(self, pixels: Pixels) -> str:
        return base64.b64encode(self.encode(pixels)).decode("ascii")
