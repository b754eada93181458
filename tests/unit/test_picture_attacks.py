"""Pictures that are meant to hurt, through every route that takes one: refused with a reason, or harmless.

What the decoder itself refuses is in `test_picture_bounds.py`; here it is what clients see, that memory stays
flat, and that the next request is answered.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import httpx
import psutil
import pytest
from PIL import Image

from ekiben.contract import (
    ClassifyRequest,
    Detection,
    DetectRequest,
    Label,
    ModelSpec,
    OcrPage,
    OcrRequest,
)
from ekiben.runtime.vision import ocr, recognition
from tests.replica_routes import client

MODEL = ModelSpec.model_validate(
    {
        "name": "sees",
        "family": "vision",
        "abilities": ["classify", "detect", "read_text"],
        "variants": [{"format": "any", "engine": "any", "source": {"kind": "local", "path": "/x"}}],
    }
)
PATHS = ("/v1/images/ocr", "/v1/images/classify", "/v1/images/detect")
MAX_GROWTH_BYTES = 64 * 2**20


class Sees:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []

    async def read_text(self, request: OcrRequest) -> OcrPage:
        self.shown.append(request.image)
        return OcrPage(width=1, height=1)

    async def classify(self, request: ClassifyRequest) -> Sequence[Label]:
        self.shown.append(request.image)
        return [Label(label="x", score=1.0)]

    async def detect(self, request: DetectRequest) -> Detection:
        self.shown.append(request.image)
        return Detection(width=1, height=1)

    async def unload(self) -> None:
        pass


def small(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(file, kind)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@cache
def png_of(width: int, height: int, *, inflated_bytes: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(inflated_bytes), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(small("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_of(width: int, height: int) -> bytes:
    data = small("TIFF")
    end = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(f"{end}I", data, 4)[0]
    out = bytearray(data)
    for entry in range(struct.unpack_from(f"{end}H", data, at)[0]):
        place = at + 2 + 12 * entry
        if (tag := struct.unpack_from(f"{end}H", data, place)[0]) in (256, 257):
            struct.pack_into(f"{end}HII", out, place + 2, 4, 1, width if tag == 256 else height)
    return bytes(out)


def svg() -> bytes:
    lol = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    text = (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{lol}]><svg xmlns="http://www.w3.org/2000/svg">'
    )
    return (text + '<image href="file:///etc/passwd"/><text>&l9;</text></svg>').encode()


REFUSED: dict[str, Callable[[], bytes]] = {
    "png of 60k x 60k": lambda: png_of(60_000, 60_000),
    "jpeg of 60k x 60k": lambda: jpeg_of(60_000, 60_000),
    "tiff of 60k x 60k": lambda: tiff_of(60_000, 60_000),
    "png of 2^31 x 1": lambda: png_of(2**31 - 1, 1),
    "png of no size": lambda: png_of(0, 0),
    "svg with entities": svg,
    "html": lambda: b"<html><script>alert(1)</script></html>",
    "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
    "zip": lambda: b"PK\x03\x04" + bytes(60),
    "half a picture": lambda: small()[:48],
}
HARMLESS: dict[str, Callable[[], bytes]] = {
    "png whose pixels inflate to 128 MiB": lambda: png_of(8, 8, inflated_bytes=2**27),
    "png and a page behind it": lambda: small() + b"<html><script>alert(1)</script></html>",
    "gif and a zip behind it": lambda: small("GIF") + b"PK\x03\x04canary",
}


async def post(path: str, picture: bytes, engine: Sees) -> httpx.Response:
    async with client(MODEL, engine, [*ocr.ROUTES, *recognition.ROUTES]) as http:
        return await http.post(path, data={"model": MODEL.name}, files={"image": picture})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("attack", REFUSED)
async def test_refused_with_a_reason(path: str, attack: str) -> None:
    picture, engine = REFUSED[attack](), Sees()
    before = psutil.Process().memory_info().rss
    answer = await post(path, picture, engine)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, "image", "invalid_request_error")
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH_BYTES
    assert not engine.shown
    assert (await post(path, small(), engine)).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("attack", HARMLESS)
async def test_what_hides_behind_a_picture_goes_no_further(path: str, attack: str) -> None:
    picture, engine = HARMLESS[attack](), Sees()
    before = psutil.Process().memory_info().rss
    answer = await post(path, picture, engine)
    assert answer.status_code == 200, answer.text
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH_BYTES
    (shown,) = engine.shown
    assert len(shown) < 1000
    assert b"script" not in shown
    assert b"canary" not in shown


@pytest.mark.parametrize("path", PATHS)
async def test_an_animation_of_a_hundred_thousand_frames_is_its_first_one(path: str) -> None:
    one = small("GIF")
    frame = one[one.index(b",") : -1]
    engine = Sees()
    answer = await post(path, one[:-1] + frame * 100_000 + b";", engine)
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(engine.shown[0])).size == (8, 8)


@pytest.mark.parametrize("path", PATHS[1:])
async def test_documents_are_for_ocr_only(path: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PDF")
    engine = Sees()
    answer = await post(path, file.getvalue(), engine)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert not engine.shown
