"""Pictures and sounds in messages: which ones llama.cpp is given.

They come in the request itself. An address is never fetched, neither here nor by llama.cpp, and what is
given to its decoders is of a format that they know and of a size that they can hold.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from ekiben.contract import InvalidRequest, UnsupportedParameter

MAX_PIXELS: Final = 64_000_000
MAX_SOUND_BYTES: Final = 16 * 2**20
MAX_SOUND_S: Final = 1800.0

_DATA: Final = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_SHOWN: Final = 40
_WAV_HEADER_BYTES: Final = 4096


def check_picture(image: Mapping[str, Any], where: str) -> str:
    """The data URL, if llama.cpp can read what is in it. Raises InvalidRequest and UnsupportedParameter."""
    detail = image.get("detail")
    if detail not in (None, "auto"):
        raise UnsupportedParameter(
            f"the detail {detail!r:.20} cannot be honoured by llama.cpp: leave it out",
            param=f"{where}.detail",
        )
    url: str = image["url"]
    where = f"{where}.url"
    if url[:5].lower() != "data:":
        raise InvalidRequest(
            f"{url[:_SHOWN]!r} is not fetched: send the picture itself, as data:image/png;base64,…",
            param=where,
        )
    head = _DATA.match(url)
    if head is None:
        raise InvalidRequest("the data URL of a picture must be of base64", param=where)
    data = _decoded(url[head.end() :], where)
    width, height = _picture_size(data, where)
    if not 0 < width * height <= MAX_PIXELS:
        raise InvalidRequest(
            f"the picture has {width}x{height} pixels, the limit is {MAX_PIXELS:,} in all", param=where
        )
    return f"data:image/any;base64,{url[head.end() :]}"


def check_sound(audio: Mapping[str, Any], where: str) -> None:
    """Raises InvalidRequest."""
    where = f"{where}.data"
    data = _decoded(audio["data"], where)
    if len(data) > MAX_SOUND_BYTES:
        raise InvalidRequest(
            f"the sound has {len(data):,} bytes, the limit is {MAX_SOUND_BYTES:,}: send less of it",
            param=where,
        )
    if audio["format"] == "wav":
        seconds = _wav_seconds(data, where)
        if not 0 < seconds <= MAX_SOUND_S:
            raise InvalidRequest(
                f"the sound lasts {seconds:.0f} seconds: it may be from above 0 to {MAX_SOUND_S:.0f}",
                param=where,
            )
    elif not (data[:3] == b"ID3" or (data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xE0 == 0xE0)):
        raise InvalidRequest("the sound is no MP3 file", param=where)


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("it is no base64", param=where) from None


def _picture_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height, from the header."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack_from("<HH", data, 6)
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg_size(data)
    except (struct.error, IndexError):
        raise InvalidRequest("the picture is cut off", param=where) from None
    raise InvalidRequest("the picture must be a PNG, JPEG, GIF or BMP file", param=where)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 4)
            return width, height
        at += 1 + struct.unpack_from(">H", data, at + 1)[0]


def _wav_seconds(data: bytes, where: str) -> float:
    """How long it lasts, were all of it samples."""
    at = data.find(b"fmt ", 0, _WAV_HEADER_BYTES)
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE" or at < 0 or len(data) < at + 24:
        raise InvalidRequest("the sound is no WAV file", param=where)
    bytes_per_s = struct.unpack_from("<I", data, at + 16)[0]
    rate, frame_bytes = struct.unpack_from("<I", data, at + 12)[0], struct.unpack_from("<H", data, at + 20)[0]
    start = data.find(b"data", at)
    if not bytes_per_s or not rate or not frame_bytes or start < 0:
        raise InvalidRequest("the header of the WAV file makes no sense", param=where)
    return float((len(data) - start - 8) / (rate * frame_bytes))
