"""What `/v1/images/ocr` takes and gives, whatever engine is behind it."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from ekiben.catalog.specs import resolve_model
from ekiben.contract import OcrLine, OcrPage, OcrRequest
from ekiben.plugins.discovery import discover
from ekiben.runtime.vision import ocr
from tests.replica_routes import client

MODEL = resolve_model("pp-ocr-v6", plugins=discover())
URL = "/v1/images/ocr"


class Page:
    """Finds two lines in every picture."""

    def __init__(self) -> None:
        self.images: list[bytes] = []

    async def read_text(self, request: OcrRequest) -> OcrPage:
        self.images.append(request.image)
        width, height = Image.open(io.BytesIO(request.image)).size
        box = [(0.0, 1.0), (20.0, 1.5), (20.0, 9.0), (0.0, 8.5)]
        lines = [OcrLine(text=text, score=0.875, box=box) for text in ("PLATFORM 3", "to Kyoto")]
        return OcrPage(width=width, height=height, lines=lines)

    async def unload(self) -> None:
        pass


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, kind)
    return file.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


async def post(**request: Any) -> tuple[httpx.Response, Page]:
    engine = Page()
    async with client(MODEL, engine, ocr.ROUTES) as http:
        return await http.post(URL, **request), engine


def check_answer(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"id", "object", "created", "model", "text", "width", "height", "lines"}
    assert (body["object"], body["model"], body["width"], body["height"]) == ("ocr", MODEL.name, 40, 20)
    assert body["text"] == "PLATFORM 3\nto Kyoto"
    assert body["lines"][1] == {
        "text": "to Kyoto",
        "score": 0.875,
        "box": [[0, 1], [20, 1.5], [20, 9], [0, 8.5]],
    }
    assert body["id"].startswith("ocr-")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
async def test_a_file_of_a_form(kind: str) -> None:
    answer, engine = await post(data={"model": MODEL.name}, files={"image": ("x", picture(kind))})
    check_answer(answer)
    assert engine.images[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:image/PNG; base64,", "data:image/png;charset=x;base64,"]
)
async def test_a_data_url(head: str) -> None:
    url = head + base64.b64encode(picture()).decode()
    answer, _ = await post(json={"model": MODEL.name, "image": url})
    check_answer(answer)


@pytest.mark.parametrize(
    "image",
    [
        None,
        5,
        "",
        "data:",
        "data:image/png",
        "data:image/png,plain",
        "data:image/png;base64,",
        "data:image/png;base64,%%%",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,AAA",
        "data:image/png;base64,\u00e9\u00e9\u00e9\u00e9",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        "data:;base64,AAAA",
        "http://127.0.0.1:9/x.png",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "/etc/passwd",
        data_url(picture())[:-40],
        data_url(picture("JPEG")[:300], "image/jpeg"),
        ["data:image/png;base64,AAAA"],
        {"url": "data:image/png;base64,AAAA"},
    ],
)
async def test_a_wrong_picture_is_named_and_never_fetched(image: object) -> None:
    answer, engine = await post(json={"model": MODEL.name, "image": image})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, "image", "invalid_request_error")
    assert not engine.images


@pytest.mark.parametrize(
    ("request_parts", "status", "param"),
    [
        ({"json": {"model": MODEL.name}}, 400, "image"),
        ({"json": {"image": data_url(picture())}}, 400, "model"),
        ({"json": {"model": "another", "image": data_url(picture())}}, 404, "model"),
        ({"json": {"model": MODEL.name, "image": data_url(picture()), "lang": "en"}}, 400, "lang"),
        ({"data": {"model": MODEL.name}, "files": {"picture": picture()}}, 400, "picture"),
        ({"data": {"image": "text"}, "files": {"model": b"x"}}, 400, "model"),
        ({"files": {"image": picture()}}, 400, "model"),
        ({"data": {"model": MODEL.name}, "files": {"image": b""}}, 400, "image"),
        ({"data": {"model": MODEL.name}, "files": {"image": b"GIF89a"}}, 400, "image"),
        ({"data": {"model": MODEL.name}}, 415, None),
        ({"content": b"x", "headers": {"content-type": "image/png"}}, 415, None),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"content": b"x", "headers": {"content-type": "multipart/mixed; boundary=x"}}, 415, None),
    ],
)
async def test_wrong_requests(request_parts: dict[str, Any], status: int, param: str | None) -> None:
    answer, engine = await post(**request_parts)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert not engine.images
