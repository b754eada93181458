"""PDF files through `/v1/images/ocr`: drawn by real processes, which hostile files cannot outlive."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image, ImageDraw, ImageFont

from ekiben.catalog.specs import resolve_model
from ekiben.contract import OcrLine, OcrPage, OcrRequest
from ekiben.plugins.discovery import discover
from ekiben.runtime.vision import ocr, pdf
from tests.replica_routes import client

MODEL = resolve_model("pp-ocr-v6", plugins=discover())
URL = "/v1/images/ocr"


def document(*texts: str, inches: tuple[float, float] = (4, 2)) -> bytes:
    """A PDF with a page for each text."""
    pages = []
    for text in texts:
        page = Image.new("RGB", (int(inches[0] * 100), int(inches[1] * 100)), "white")
        ImageDraw.Draw(page).text((20, 20), text, fill="black", font=ImageFont.load_default(size=40))
        pages.append(page)
    file = io.BytesIO()
    pages[0].save(file, "PDF", resolution=100, save_all=True, append_images=pages[1:])
    return file.getvalue()


class Sizes:
    """Tells of each page how large it is; may wait until it is told to go on."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def read_text(self, request: OcrRequest) -> OcrPage:
        self.began.set()
        await self.go.wait()
        width, height = Image.open(io.BytesIO(request.image)).size
        box = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
        return OcrPage(width=width, height=height, lines=[OcrLine(text=f"{width}", score=1, box=box)])

    async def unload(self) -> None:
        pass


async def post(content: bytes, **fields: Any) -> httpx.Response:
    async with client(MODEL, Sizes(), ocr.ROUTES) as http:
        return await http.post(URL, data={"model": MODEL.name} | fields, files={"image": content})


def drawing() -> Sequence[psutil.Process]:
    return psutil.Process().children()


async def test_pages_in_their_order() -> None:
    answer = await post(document("one", "two", "three"))
    body = answer.json()
    assert answer.status_code == 200, body
    assert set(body) == {"id", "object", "created", "model", "text", "pages"}
    assert [page["page"] for page in body["pages"]] == [1, 2, 3]
    assert {(page["width"], page["height"]) for page in body["pages"]} == {(800, 400)}
    assert body["text"] == "800\n\n800\n\n800"
    assert set(body["pages"][0]) == {"page", "text", "width", "height", "lines"}
    assert not drawing()


async def test_some_pages_as_a_data_url() -> None:
    url = f"data:application/pdf;base64,{base64.b64encode(document(*'abcde')).decode()}"
    async with client(MODEL, Sizes(), ocr.ROUTES) as http:
        body = {"model": MODEL.name, "image": url, "first_page": 2, "last_page": 3}
        answer = await http.post(URL, json=body)
    assert [page["page"] for page in answer.json()["pages"]] == [2, 3]


async def test_a_huge_page_is_drawn_small() -> None:
    answer = await post(document("wall", inches=(140, 14)))
    (page,) = answer.json()["pages"]
    assert (page["width"], page["height"]) == (2400, 240)


@pytest.mark.parametrize(
    ("content", "fields", "param"),
    [
        (document("a", "b"), {"first_page": "3"}, "first_page"),
        (document("a", "b"), {"first_page": "2", "last_page": "1"}, "last_page"),
        (document("a"), {"first_page": "0"}, "first_page"),
        (document("a"), {"last_page": "x"}, "last_page"),
        (document("a"), {"dpi": "9999"}, "dpi"),
        (document(*["a"] * (pdf.MAX_PAGES + 1), inches=(0.5, 0.5)), {}, "last_page"),
        (b"%PDF-1.7\n" + bytes(1000), {}, "image"),
        (document("a")[:400], {}, "image"),
        (b"%PDF-", {}, "image"),
    ],
)
async def test_wrong_documents_and_pages(content: bytes, fields: dict[str, str], param: str) -> None:
    answer = await post(content, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert not drawing()


async def test_pages_are_for_documents_only() -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    answer = await post(file.getvalue(), first_page="1")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "first_page")


async def test_a_page_that_takes_for_ever_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "PAGE_TIMEOUT_S", 0.0)
    answer = await post(document("slow"))
    assert answer.status_code == 400
    assert "takes longer" in answer.json()["error"]["message"]
    assert not drawing()


async def test_a_client_that_leaves_ends_the_drawing(tmp_path: Path) -> None:
    engine = Sizes()
    engine.go.clear()
    async with client(MODEL, engine, ocr.ROUTES) as http:
        files = {"image": document("one", "two")}
        asking = asyncio.create_task(http.post(URL, data={"model": MODEL.name}, files=files))
        await engine.began.wait()
        assert len(drawing()) == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert not drawing()
