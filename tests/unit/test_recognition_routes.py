"""What `/v1/images/classify` and `/v1/images/detect` take and give, whatever engine is behind them."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from PIL import Image

from ekiben.contract import (
    Ability,
    ClassifyRequest,
    DetectedObject,
    Detection,
    DetectRequest,
    Family,
    Label,
    ModelSpec,
)
from ekiben.errors import InvalidRequest
from ekiben.runtime.vision import recognition
from ekiben.runtime.vision.darkroom import Darkroom
from tests.replica_routes import client

MODEL = ModelSpec.model_validate(
    {
        "name": "sees",
        "family": Family.VISION,
        "abilities": [Ability.CLASSIFY, Ability.DETECT],
        "variants": [
            {"format": "safetensors", "engine": "transformers", "source": {"kind": "local", "path": "/x"}}
        ],
    }
)
CLASSIFY, DETECT = "/v1/images/classify", "/v1/images/detect"


class Sees:
    """Notes what it is asked, and finds the same in every picture."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def classify(self, request: ClassifyRequest) -> Sequence[Label]:
        self.asked.append(request)
        names = request.labels or [f"thing {number}" for number in range(9)]
        return [Label(label=name, score=0.5 / (place + 1)) for place, name in enumerate(names)]

    async def detect(self, request: DetectRequest) -> Detection:
        self.asked.append(request)
        width, height = Image.open(io.BytesIO(request.image)).size
        found = DetectedObject(label="train", score=0.875, box=(1, 2.004, 30, 18))
        return Detection(width=width, height=height, objects=[found])

    async def unload(self) -> None:
        pass


def picture(size: tuple[int, int] = (40, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "white").save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


async def post(url: str, **request: Any) -> tuple[httpx.Response, Sees]:
    engine = Sees()
    async with client(MODEL, engine, recognition.ROUTES) as http:
        return await http.post(url, **request), engine


@pytest.mark.parametrize(
    ("sent", "count", "labels"),
    [
        ({"json": {"image": data_url(picture())}}, 5, ()),
        ({"json": {"image": data_url(picture()), "top_k": 7, "labels": None}}, 7, ()),
        ({"json": {"image": data_url(picture()), "labels": ["cat", "dog"]}}, 2, ("cat", "dog")),
        ({"data": {}, "files": {"image": picture()}}, 5, ()),
        ({"data": {"top_k": "2"}, "files": {"image": picture()}}, 2, ()),
        ({"data": {"labels": ["cat", "dog"]}, "files": {"image": picture()}}, 2, ("cat", "dog")),
        ({"data": {"labels[]": ["a", "b", "c"]}, "files": {"image": picture()}}, 3, ("a", "b", "c")),
    ],
)
async def test_labels(sent: dict[str, Any], count: int, labels: tuple[str, ...]) -> None:
    kind = "json" if "json" in sent else "data"
    answer, engine = await post(CLASSIFY, **sent | {kind: sent[kind] | {"model": MODEL.name}})
    body = answer.json()
    assert answer.status_code == 200, body
    assert set(body) == {"id", "object", "created", "model", "labels"}
    assert (body["object"], body["model"], len(body["labels"])) == ("classification", MODEL.name, count)
    assert body["labels"][0]["score"] == 0.5
    assert body["labels"][1]["score"] == 0.25
    assert engine.asked[0].labels == labels
    assert engine.asked[0].image.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("sent", "threshold"),
    [
        ({"json": {"image": data_url(picture())}}, 0.5),
        ({"json": {"image": data_url(picture()), "threshold": 0}}, 0),
        ({"data": {"threshold": "0.9"}, "files": {"image": picture()}}, 0.9),
    ],
)
async def test_objects(sent: dict[str, Any], threshold: float) -> None:
    kind = "json" if "json" in sent else "data"
    answer, engine = await post(DETECT, **sent | {kind: sent[kind] | {"model": MODEL.name}})
    body = answer.json()
    assert answer.status_code == 200, body
    assert set(body) == {"id", "object", "created", "model", "width", "height", "objects"}
    assert (body["object"], body["width"], body["height"]) == ("detection", 40, 20)
    assert body["objects"] == [{"label": "train", "score": 0.875, "box": [1, 2, 30, 18]}]
    assert engine.asked[0].threshold == threshold


@pytest.mark.parametrize(
    ("url", "fields", "param"),
    [
        (CLASSIFY, {"threshold": 0.5}, "threshold"),
        (CLASSIFY, {"top_k": 0}, "top_k"),
        (CLASSIFY, {"top_k": 1.5}, "top_k"),
        (CLASSIFY, {"top_k": True}, "top_k"),
        (CLASSIFY, {"labels": []}, "labels"),
        (CLASSIFY, {"labels": "cat"}, "labels"),
        (CLASSIFY, {"labels": ["cat", ""]}, "labels"),
        (CLASSIFY, {"labels": ["cat"] * 1000}, "labels"),
        (CLASSIFY, {"labels": [5]}, "labels"),
        (DETECT, {"top_k": 5}, "top_k"),
        (DETECT, {"labels": ["cat"]}, "labels"),
        (DETECT, {"threshold": 1.1}, "threshold"),
        (DETECT, {"threshold": -1}, "threshold"),
        (DETECT, {"threshold": 10**400}, "threshold"),
        (DETECT, {"threshold": "0.5"}, "threshold"),
        (DETECT, {"image": "https://example.com/x.png"}, "image"),
        (CLASSIFY, {"image": data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, "image"),
        (CLASSIFY, {"image": data_url(picture()[:50])}, "image"),
    ],
)
async def test_wrong_fields_are_named(url: str, fields: dict[str, Any], param: str) -> None:
    body = {"model": MODEL.name, "image": data_url(picture())} | fields
    answer, engine = await post(url, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not engine.asked


@pytest.mark.parametrize("nonsense", ["nan", "inf", "much", ""])
async def test_what_is_no_number_in_a_form_is_named(nonsense: str) -> None:
    form = {"model": MODEL.name, "threshold": nonsense}
    answer, engine = await post(DETECT, data=form, files={"image": picture()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "threshold")
    assert not engine.asked


async def test_a_field_may_not_be_a_file_or_come_twice() -> None:
    for parts in (
        {"data": {"model": MODEL.name}, "files": {"image": picture(), "threshold": b"0.5"}},
        {"data": {"model": MODEL.name, "threshold": ["0.5", "0.6"]}, "files": {"image": picture()}},
    ):
        answer, _ = await post(DETECT, **parts)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "threshold")


async def test_small_pictures_are_in_the_darkroom_together_and_large_ones_alone() -> None:
    room, inside, most = Darkroom(max_pixels=1000), 0, 0
    leave = asyncio.Event()

    async def develop(size: tuple[int, int]) -> None:
        nonlocal inside, most
        async with room.developed(picture(size)):
            inside += 1
            most = max(most, inside)
            if inside == 10:
                leave.set()
            await leave.wait()
            inside -= 1

    await asyncio.gather(*(develop((10, 10)) for _ in range(20)))
    assert most == 10
    most = 0
    await asyncio.gather(*(develop((30, 20)) for _ in range(5)))
    assert (most, inside) == (1, 0)


async def test_who_leaves_the_queue_of_the_darkroom_lets_the_next_one_in() -> None:
    room = Darkroom(max_pixels=100)
    entered = asyncio.Event()

    async def stay(pixels: int, until: asyncio.Event) -> None:
        async with room.room(pixels):
            entered.set()
            await until.wait()

    ever, once = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(stay(60, once))
    await entered.wait()
    entered.clear()
    large = asyncio.create_task(stay(100, ever))
    small = asyncio.create_task(stay(40, ever))
    await asyncio.sleep(0)
    assert not entered.is_set(), "who came first gets in first"
    large.cancel()
    await entered.wait()
    once.set()
    ever.set()
    await asyncio.gather(first, small)
    async with asyncio.timeout(5), room.room(100):
        pass
    with pytest.raises(asyncio.CancelledError):
        await large


async def test_a_broken_picture_leaves_no_room_taken() -> None:
    room = Darkroom(max_pixels=800)
    for _ in range(3):
        with pytest.raises(InvalidRequest):
            async with room.developed(picture()[:60]):
                pass
    async with asyncio.timeout(5), room.room(800):
        pass
