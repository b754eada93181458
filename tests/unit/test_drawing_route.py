"""What `/v1/images/generations`, `edits` and `variations` take and give, whatever engine is behind them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, get_type_hints

import httpx
import pytest
from openai.types import ImagesResponse
from openai.types.image_create_variation_params import ImageCreateVariationParams
from openai.types.image_edit_params import ImageEditParamsStreaming
from openai.types.image_generate_params import ImageGenerateParamsStreaming
from PIL import Image

from ekiben.contract import (
    Ability,
    Drawn,
    DrawRequest,
    Family,
    ModelSpec,
    Picture,
    Pixels,
    Preview,
    SourceSpec,
    Step,
    Variant,
)
from ekiben.runtime.protocol import Work
from ekiben.runtime.vision import drawing
from ekiben.runtime.vision.drawing_fields import EDITS, GENERATIONS, VARIATIONS
from ekiben.runtime.work import WorkBook
from tests.replica_routes import client

SOURCE = SourceSpec(kind="local")
MODEL = ModelSpec(
    name="painter",
    family=Family.VISION,
    abilities=frozenset({Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}),
    variants=(Variant(format="diffusers", engine="diffusers", source=SOURCE, adapters={"red": SOURCE}),),
)
NAMED = {"model": "painter", "prompt": "a box"}
GENERATE, EDIT, VARY = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"


class Painter:
    """Paints a picture in one colour, whose red is its seed, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[DrawRequest] = []
        self.began = asyncio.Event()
        self.closed = False
        self.endless = False

    async def generate_image(self, request: DrawRequest) -> AsyncGenerator[Drawn, None]:
        self.asked.append(request)
        try:
            for index in range(request.n):
                yield Step(index=index, done=1, total=2)
                for number in range(request.previews):
                    yield Preview(index=index, number=number, pixels=self._pixels(request, number))
                self.began.set()
                if self.endless:
                    await asyncio.Event().wait()
            for index in range(request.n):
                seed = (request.seed or 0) + index
                yield Picture(index=index, pixels=self._pixels(request, seed), seed=seed, prompt_tokens=5)
        finally:
            self.closed = True

    edit_image = generate_image

    def _pixels(self, request: DrawRequest, red: int) -> Pixels:
        width, height = request.width or 16, request.height or 8
        return Pixels(width=width, height=height, data=bytes([red, 0, 0]) * (width * height))

    async def unload(self) -> None:
        pass


def picture(colour: str = "red", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 8), colour).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


async def post(path: str, **request: Any) -> tuple[httpx.Response, Painter]:
    painter = Painter()
    async with client(MODEL, painter, drawing.ROUTES) as http:
        answer = await http.post(path, **request)
    return answer, painter


async def generate(**fields: Any) -> tuple[httpx.Response, Painter]:
    return await post(GENERATE, json={"model": "painter", "prompt": "a box"} | fields)


async def refused(**fields: Any) -> dict[str, Any]:
    answer, painter = await generate(**fields)
    assert answer.status_code == 400
    assert painter.asked == []
    error: dict[str, Any] = answer.json()["error"]
    return error


def opened(image: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))


async def test_pictures_come_whole() -> None:
    answer, painter = await generate(n=3, size="32x24", seed=7)
    body = answer.json()
    assert [image["seed"] for image in body["data"]] == [7, 8, 9]
    assert [opened(image).getpixel((0, 0)) for image in body["data"]] == [(7, 0, 0), (8, 0, 0), (9, 0, 0)]
    assert opened(body["data"][0]).size == (32, 24)
    assert (body["size"], body["output_format"], body["background"]) == ("32x24", "png", "opaque")
    assert body["usage"]["input_tokens"] == body["usage"]["total_tokens"] == 5
    assert ImagesResponse.model_validate(body).usage is not None
    assert painter.asked == [DrawRequest(prompt="a box", n=3, width=32, height=24, seed=7)]


async def test_every_field_reaches_the_engine() -> None:
    _, painter = await generate(
        size="auto",
        quality="auto",
        background="opaque",
        moderation="low",
        user="somebody",
        safety_identifier="somebody",
        response_format="b64_json",
        style=None,
        negative_prompt="lunch",
        num_inference_steps=9,
        steps=9,
        guidance_scale=4.5,
        strength=0.5,
        scheduler="EulerDiscreteScheduler",
        eta=0.5,
        prompt_2="more",
    )
    assert painter.asked == [
        DrawRequest(
            prompt="a box",
            negative_prompt="lunch",
            steps=9,
            guidance=4.5,
            strength=0.5,
            scheduler="EulerDiscreteScheduler",
            options={"eta": 0.5, "prompt_2": "more"},
        )
    ]


async def test_an_adapter_is_asked_for_by_its_name() -> None:
    _, painter = await generate(model="painter:red")
    assert painter.asked[0].adapter == "red"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_a_picture_has_the_format_that_was_asked_for(kind: str) -> None:
    answer, _ = await generate(output_format=kind)
    assert opened(answer.json()["data"][0]).format == kind.upper()
    assert answer.json()["output_format"] == kind


async def test_compression_makes_files_smaller() -> None:
    best, _ = await generate(output_format="jpeg", size="64x64", seed=99)
    small, _ = await generate(output_format="jpeg", size="64x64", seed=99, output_compression=5)
    assert len(small.json()["data"][0]["b64_json"]) < len(best.json()["data"][0]["b64_json"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"size": "0x5"}, "size"),
        ({"size": "99999x5"}, "size"),
        ({"size": 512}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"partial_images": 1}, "partial_images"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_format": "bmp"}, "output_format"),
        ({"steps": 3, "num_inference_steps": 4}, "steps"),
        ({"strange": 1}, "strange"),
        ({"image": "x"}, "image"),
        ({"scheduler": ""}, "scheduler"),
    ],
)
async def test_what_is_wrong_is_refused(fields: dict[str, Any], param: str) -> None:
    assert (await refused(**fields))["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": "transparent"}, "background"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"output_format": "svg"}, "output_format"),
        ({"svg": {"model": "m"}}, "svg"),
        ({"frame_count": 3}, "frame_count"),
        ({"complexity": "low"}, "complexity"),
        ({"response_format": "url"}, "response_format"),
        ({"response_format": "url", "stream": True}, "response_format"),
        ({"n": 2, "stream": True}, "n"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = await refused(**fields)
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("known", "params"),
    [
        (GENERATIONS, ImageGenerateParamsStreaming),
        (EDITS, ImageEditParamsStreaming),
        (VARIATIONS, ImageCreateVariationParams),
    ],
)
def test_every_field_of_the_official_types_is_known(known: dict[str, Any], params: type) -> None:
    hints = get_type_hints(params)
    assert hints.keys() - {"model", "image", "mask"} <= known.keys()


async def test_a_url_is_only_promised_where_somebody_keeps_the_picture() -> None:
    body = {"model": "painter", "prompt": "a box", "response_format": "url"}
    answer, _ = await post(GENERATE, json=body, headers={"x-ekiben-pictures": "kept"})
    assert answer.headers["x-ekiben-pictures"] == "url"
    assert opened(answer.json()["data"][0]).size == (16, 8)
    answer, _ = await post(
        GENERATE, json=body | {"response_format": "b64_json"}, headers={"x-ekiben-pictures": "kept"}
    )
    assert "x-ekiben-pictures" not in answer.headers


async def test_a_stream_shows_the_state_on_the_way() -> None:
    answer, _ = await generate(stream=True, partial_images=2, output_format="webp", seed=3)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ": picture 1, step 1 of 2\n\n" in answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image"] * 2 + ["completed"]
    assert [event["partial_image_index"] for event in events[:2]] == [0, 1]
    assert events[2]["seed"] == 3
    assert {opened(event).format for event in events} == {"WEBP"}


async def test_a_picture_is_changed_from_a_form() -> None:
    answer, painter = await post(
        EDIT,
        data={
            "model": "painter",
            "prompt": "a box",
            "n": "2",
            "strength": "0.5",
            "seed": "4",
            "size": "16x8",
        },
        files={"image": ("a.png", picture(), "image/png"), "mask": ("m.png", picture(), "image/png")},
    )
    assert len(answer.json()["data"]) == 2
    (asked,) = painter.asked
    assert (asked.n, asked.strength, asked.seed, asked.width) == (2, 0.5, 4, 16)
    assert asked.mask is not None
    assert [Image.open(io.BytesIO(image)).size for image in asked.images] == [(16, 8)]


async def test_several_pictures_are_sent_as_a_list() -> None:
    files = [
        ("image[]", ("a.png", picture(), "image/png")),
        ("image[]", ("b.png", picture("blue"), "image/png")),
    ]
    _, painter = await post(EDIT, data={"model": "painter", "prompt": "a box"}, files=files)
    colours = [Image.open(io.BytesIO(image)).getpixel((0, 0)) for image in painter.asked[0].images]
    assert colours == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize(
    "fields",
    [
        {"image": data_url(picture())},
        {"image": [data_url(picture())]},
        {"images": [{"image_url": data_url(picture())}]},
    ],
)
async def test_a_picture_is_changed_from_json(fields: dict[str, Any]) -> None:
    body = {
        "model": "painter",
        "prompt": "a box",
        "mask": {"image_url": data_url(picture("white"))},
        **fields,
    }
    _, painter = await post(EDIT, json=body)
    (asked,) = painter.asked
    assert len(asked.images) == 1
    assert asked.mask is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "image"),
        ({"image": "https://example.com/a.png"}, "image"),
        ({"image": "file:///etc/passwd"}, "image"),
        ({"images": [{"file_id": "file-1"}]}, "image"),
        ({"image": data_url(b"no picture")}, "image"),
        ({"image": data_url(picture()), "mask": "x"}, "mask"),
        ({"image": [data_url(picture())] * 17}, "image"),
        ({"image": data_url(picture()), "input_fidelity": "high"}, "input_fidelity"),
    ],
)
async def test_what_is_no_picture_is_refused(fields: dict[str, Any], param: str) -> None:
    answer, painter = await post(EDIT, json={"model": "painter", "prompt": "a box"} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert painter.asked == []


async def test_variations_begin_from_a_picture_alone() -> None:
    file = ("a.png", picture(), "image/png")
    answer, painter = await post(VARY, data={"model": "painter", "n": "2"}, files={"image": file})
    assert len(answer.json()["data"]) == 2
    assert (painter.asked[0].prompt, len(painter.asked[0].images)) == ("", 1)
    answer, _ = await post(VARY, data={"model": "painter", "prompt": "x"}, files={"image": file})
    assert answer.json()["error"]["param"] == "prompt"
    answer, _ = await post(VARY, data={"model": "painter"}, files={"other": file})
    assert answer.json()["error"]["param"] == "other"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_work(stream: bool) -> None:
    painter = Painter()
    painter.endless = True
    async with client(MODEL, painter, drawing.ROUTES) as http:
        body = {"model": "painter", "prompt": "a box", "stream": stream}
        asking = asyncio.create_task(http.post(GENERATE, json=body))
        await painter.began.wait()
        asking.cancel()
        await asyncio.wait({asking})
    assert painter.closed


@pytest.mark.parametrize(("stream", "n"), [(False, 3), (True, 1)])
async def test_steps_of_all_pictures_of_a_request_are_told_until_it_ends(stream: bool, n: int) -> None:
    told: asyncio.Queue[Sequence[Work]] = asyncio.Queue()
    painter = Painter()
    painter.endless = True
    async with client(MODEL, painter, drawing.ROUTES, work=WorkBook(told.put_nowait)) as http:
        body = NAMED | {"n": n, "stream": stream}
        asking = asyncio.create_task(http.post(GENERATE, json=body, headers={"x-request-id": "req_1"}))
        async with asyncio.timeout(5):
            (work,) = await told.get()
            assert work == Work(request="req_1", route=GENERATE, done=1, total=2 * n, unit="steps")
            asking.cancel()
            await asyncio.wait({asking})
            assert await told.get() == []
