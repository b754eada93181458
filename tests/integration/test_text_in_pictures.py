"""Real pictures through the route: their words, where they stand, and in the order they are read."""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont

from ekiben.catalog.specs import resolve_model
from ekiben.contract import Ability, EngineError, InvalidRequest, LoadFailed, OcrLine, OcrRequest
from ekiben.plugins.discovery import discover
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.vision.ocr import ROUTES
from tests.replica_routes import Weights, client, load, load_folder

NAME = "pp-ocr-v6"
SPEC = resolve_model(NAME, plugins=discover())
SIGN = ("PLATFORM 3", "to Kyoto", "departs at 10:45")


def sign(lines: tuple[str, ...] = SIGN, size: tuple[int, int] = (420, 230)) -> Image.Image:
    """Black lines on white, 70 pixels apart."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((20, 15 + 70 * number), line, fill="black", font=ImageFont.load_default(size=40))
    return image


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def without_spaces(text: str) -> str:
    return text.replace(" ", "")


@pytest.fixture
async def reader(weights: Weights, tmp_path: Path) -> AsyncIterator[Any]:
    _, loaded = await load(NAME, weights, tmp_path)
    yield loaded
    await loaded.unload()


def asked(reader: Any) -> Any:
    """What the runtime asks a loaded reader through."""
    return Fronts(reader).able(Ability.READ_TEXT)


def models(reader: Any) -> Any:
    """The library's side of a loaded reader."""
    return reader.batching[Ability.READ_TEXT]._reader


async def post(reader: Any, image: bytes) -> dict[str, Any]:
    async with client(SPEC, reader, ROUTES) as http:
        answer: httpx.Response = await http.post(
            "/v1/images/ocr", data={"model": NAME}, files={"image": ("sign.png", image, "image/png")}
        )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def check_boxes(page: dict[str, Any]) -> None:
    for line in page["lines"]:
        assert len(line["box"]) == 4
        assert all(0 <= x <= page["width"] and 0 <= y <= page["height"] for x, y in line["box"])
        (left, top), (right, _), (_, bottom), _ = line["box"]
        assert right > left
        assert bottom > top
        assert 0.5 <= line["score"] <= 1


async def test_words_boxes_and_scores(reader: Any) -> None:
    page = await post(reader, png(sign()))
    assert [without_spaces(line["text"]) for line in page["lines"]] == [without_spaces(line) for line in SIGN]
    assert page["text"] == "\n".join(line["text"] for line in page["lines"])
    assert (page["width"], page["height"]) == (420, 230)
    check_boxes(page)
    for number, line in enumerate(page["lines"]):
        middle = sum(y for _, y in line["box"]) / 4
        assert 15 + 70 * number < middle < 15 + 70 * (number + 1)


async def test_a_photo_that_was_taken_sideways_is_read_upright(reader: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    page = await post(reader, png(sign().transpose(Image.Transpose.ROTATE_90), exif=exif))
    assert (page["width"], page["height"]) == (420, 230)
    assert without_spaces(page["text"]) == without_spaces("\n".join(SIGN))
    check_boxes(page)


async def test_the_pages_of_a_pdf(reader: Any) -> None:
    file = io.BytesIO()
    pages = [sign(SIGN[:1], (420, 90)), sign(SIGN[1:2], (420, 90))]
    pages[0].save(file, "PDF", resolution=100, save_all=True, append_images=pages[1:])
    document = await post(reader, file.getvalue())
    assert without_spaces(document["text"]) == "PLATFORM3\n\ntoKyoto"
    for page in document["pages"]:
        assert (page["width"], page["height"] // 10) == (840, 18)
        check_boxes(page)


async def test_white_text_on_a_transparent_ground(reader: Any) -> None:
    image = Image.new("RGBA", (420, 90), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((20, 15), "PLATFORM 3", fill="white", font=ImageFont.load_default(size=40))
    assert without_spaces((await post(reader, png(image)))["text"]) == "PLATFORM3"


async def test_lines_on_their_head_are_turned(reader: Any) -> None:
    page = await post(reader, png(sign(SIGN[:1], (420, 90)).rotate(180)))
    assert without_spaces(page["text"]) == "PLATFORM3"


async def test_boxes_of_a_picture_that_is_read_smaller(weights: Weights, tmp_path: Path) -> None:
    _, coarse = await load(NAME, weights, tmp_path, max_side=420)
    page = await asked(coarse).read_text(OcrRequest(image=png(sign().resize((1260, 690)))))
    await coarse.unload()
    assert (page.width, page.height) == (1260, 690)
    assert [without_spaces(line.text) for line in page.lines] == [without_spaces(line) for line in SIGN]
    for number, line in enumerate(page.lines):
        middle = sum(y for _, y in line.box) / 4
        assert 45 + 210 * number < middle < 45 + 210 * (number + 1)


async def test_small_print_in_a_small_picture(reader: Any) -> None:
    image = Image.new("RGB", (110, 24), "white")
    ImageDraw.Draw(image).text((6, 6), "PLATFORM 3", fill="black", font=ImageFont.load_default(size=12))
    assert without_spaces((await post(reader, png(image)))["text"]) == "PLATFORM3"


async def test_a_picture_without_text_has_no_lines(reader: Any) -> None:
    page = await post(reader, png(Image.new("RGB", (1, 1), "white")))
    assert (page["text"], page["lines"], page["width"]) == ("", [], 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 2500), (2500, 1), (40, 2500), (6_000_000, 1), (4000, 4000)])
async def test_strips_cost_no_more_than_pages(reader: Any, size: tuple[int, int]) -> None:
    detector = models(reader)._sessions[0]
    pixels: list[int] = []

    def stop(_: Any, feed: dict[str, Any]) -> None:
        pixels.extend(tensor.shape[2] * tensor.shape[3] for tensor in feed.values())
        raise RuntimeError

    detector.run = stop
    with pytest.raises(EngineError):
        await asked(reader).read_text(OcrRequest(image=png(Image.new("RGB", size, "white"))))
    assert pixels
    assert max(pixels) <= 2048**2


async def test_requests_at_once_keep_their_own_words(reader: Any) -> None:
    words = ("Kyoto", "Osaka", "Nagoya", "Hakata")
    async with client(SPEC, reader, ROUTES) as http:
        answers = await asyncio.gather(
            *(
                http.post(
                    "/v1/images/ocr", data={"model": NAME}, files={"image": png(sign((word,), (240, 90)))}
                )
                for word in words
            )
        )
    assert tuple(answer.json()["text"] for answer in answers) == words


async def test_cancelling_ends_the_work(reader: Any) -> None:
    loop = asyncio.get_running_loop()
    started, ended = asyncio.Event(), asyncio.Event()
    read = models(reader).read
    outcomes: list[object] = []

    def noted(page: Any, reading: Any) -> Any:
        loop.call_soon_threadsafe(started.set)
        try:
            outcomes.append(found := read(page, reading))
        except EngineError as error:
            outcomes.append(error)
            raise
        finally:
            loop.call_soon_threadsafe(ended.set)
        return found

    models(reader).read = noted
    full = sign(tuple(f"line {n} of a page " * 5 for n in range(28)), (2000, 2000))
    page = asyncio.create_task(asked(reader).read_text(OcrRequest(image=png(full))))
    await started.wait()
    await asyncio.sleep(0.3)  # into the detector, which takes seconds
    page.cancel()
    with pytest.raises(asyncio.CancelledError):
        await page
    await ended.wait()
    assert [type(outcome) for outcome in outcomes] == [EngineError]
    assert len((await asked(reader).read_text(OcrRequest(image=png(sign(SIGN[:1], (240, 90)))))).lines) == 1


@pytest.mark.parametrize("image", [b"", b"GIF89a", png(Image.new("RGB", (90, 90)))[:60]])
async def test_broken_pictures_are_the_clients_fault(reader: Any, image: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked(reader).read_text(OcrRequest(image=image))
    assert caught.value.param == "image"


async def test_options(weights: Weights, tmp_path: Path) -> None:
    _, strict = await load(NAME, weights, tmp_path, min_score=1.0, max_side=640, upside_down=False)
    page = await asked(strict).read_text(OcrRequest(image=png(sign())))
    assert (page.width, page.height, list(page.lines)) == (420, 230, [])
    await strict.unload()


async def test_nothing_is_fetched_and_nothing_logged(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    _, loaded = await load(NAME, weights, tmp_path)
    page = await asked(loaded).read_text(OcrRequest(image=png(sign())))
    assert len(page.lines) == 3
    await loaded.unload()
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("RapidOCR").level >= logging.CRITICAL


@pytest.mark.parametrize(
    ("task", "content", "reason"),
    [("det", None, "detector"), ("rec", None, "recognizer"), ("rec", b"junk", "not an ONNX model")],
)
async def test_incomplete_and_broken_weights(
    weights: Weights, tmp_path: Path, task: str, content: bytes | None, reason: str
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(weights(NAME), folder)
    (path,) = folder.glob(f"*_{task}_*.onnx")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadFailed, match=reason):
        await load_folder(SPEC, folder, tmp_path)


async def test_weights_that_are_ambiguous_or_no_folder(weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(weights(NAME), folder)
    (detector,) = folder.glob("*_det_*.onnx")
    with pytest.raises(LoadFailed, match="needs a folder"):
        await load_folder(SPEC, detector, tmp_path)
    shutil.copy(detector, folder / "other_det.onnx")
    with pytest.raises(LoadFailed, match="several models for det"):
        await load_folder(SPEC, folder, tmp_path)


async def test_a_recognizer_without_an_alphabet_fails_and_fetches_none(
    weights: Weights, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(weights(NAME), folder)
    (recognizer,) = folder.glob("*_rec_*.onnx")
    (detector,) = folder.glob("*_det_*.onnx")
    shutil.copy(detector, recognizer)  # an ONNX model that carries no alphabet
    with pytest.raises(LoadFailed, match="alphabet"):
        await load_folder(SPEC, folder, tmp_path)


def test_reading_order_follows_rows_whatever_their_height() -> None:
    from ekiben_rapidocr.layout import in_reading_order

    def line(text: str, x: float, y: float, height: float) -> OcrLine:
        box = [(x, y), (x + 100, y), (x + 100, y + height), (x, y + height)]
        return OcrLine(text=text, score=1.0, box=box)

    large = [line("right", 300, 0, 100), line("left", 0, 30, 100), line("below", 0, 150, 100)]
    assert [found.text for found in in_reading_order(large)] == ["left", "right", "below"]
    small = [line("three", 0, 18, 8), line("two", 200, 9, 8), line("one", 0, 0, 8)]
    assert [found.text for found in in_reading_order(small)] == ["one", "two", "three"]
    assert in_reading_order([]) == []
