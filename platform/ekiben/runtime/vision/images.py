"""Pictures from clients, decoded within bounds before an engine sees them.

What comes out is one upright frame, written anew by this process: no metadata, no second file hidden
behind the first, no further frames. Nothing here fetches anything. Pillow is imported on first use.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ekiben.errors import InvalidRequest

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS: Final = 64_000_000
MAX_FILE_BYTES: Final = 256 * 2**20

_ORIENTATION_TAG: Final = 0x0112
_SIXTEEN_BIT_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N")


def pixel_count(source: Path | bytes) -> int:
    """How many pixels it has by its header. Blocking, quick. Raises as `upright_png`."""
    with _open(source) as image:
        return image.width * image.height


def upright_png(source: Path | bytes) -> bytes:
    """The first frame of a picture, turned as its EXIF says, as an uncompressed PNG.

    Blocking. Raises InvalidRequest (param `image`) for what is no picture, broken or too large.
    """
    with _open(source) as image:
        return _rewritten(image)


def _rewritten(image: Image) -> bytes:
    try:
        image.load()
        frame = _eight_bit(image)
        if (turn := _turn(image)) is not None:
            frame = frame.transpose(turn)
        frame.info.clear()
        png = io.BytesIO()
        frame.save(png, "PNG", compress_level=0)
    except Exception as error:  # decoders meet hostile bytes: whatever they raise, the bytes are at fault
        raise _invalid(f"is broken: {_first_line(error)}") from error
    return png.getvalue()


def _open(source: Path | bytes) -> Image:
    """The picture by its header alone; its pixels are not decoded yet."""
    size_bytes = source.stat().st_size if isinstance(source, Path) else len(source)
    if not size_bytes:
        raise _invalid("is empty")
    if size_bytes > MAX_FILE_BYTES:
        raise _invalid(f"has {size_bytes:,} bytes, the limit is {MAX_FILE_BYTES:,}")
    image = _header(source)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _invalid(f"has {image.width}x{image.height} pixels, the limit is {MAX_PIXELS:,} in all")
    return image


def _header(source: Path | bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _invalid(f"has too many pixels, the limit is {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise _invalid(f"is not a picture that can be read here: send {', '.join(FORMATS)}") from None
    except Exception as error:
        raise _invalid(f"is broken: {_first_line(error)}") from error


def _eight_bit(image: Image) -> Image:
    """The picture as RGB, or RGBA where it has transparency."""
    if image.mode in _SIXTEEN_BIT_MODES:
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _turn(image: Image) -> Transpose | None:
    """What makes the picture upright. EXIF that cannot be read counts as none."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error):
        return None
    turns: dict[object, Transpose] = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the picture {reason}", param="image")
