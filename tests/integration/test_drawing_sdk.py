"""Pictures through the routes with the official SDK, made by a real pipeline: the library's own bytes."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from ekiben.contract import Ability, Family, ModelSpec, SourceSpec, Variant, testing
from ekiben.plugins.discovery import parse_manifest
from ekiben.runtime.vision import drawing
from ekiben_diffusers.engine import Diffusers
from ekiben_diffusers.watch import Watch
from tests.replica_routes import client
from tests.tiny_pipelines import save_stable_diffusion

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANIFEST = Path(__file__).parents[2] / "plugins" / "diffusers" / "plugin.toml"
SIDE = 32
MODEL = ModelSpec(
    name="tiny",
    family=Family.VISION,
    abilities=frozenset({Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}),
    variants=(Variant(format="diffusers", engine="diffusers", source=SourceSpec(kind="local")),),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("stable-diffusion"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    section = parse_manifest(MANIFEST).engine
    assert section is not None
    scratch = tmp_path_factory.mktemp("scratch")
    request = testing.load_request(MODEL, folder, scratch=scratch, options=section.defaults(), threads=1)
    loaded = await Diffusers().load(request)
    async with client(MODEL, loaded, drawing.ROUTES) as http:
        yield http
    await loaded.unload()


@pytest.fixture
def sdk(http: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="none", base_url="http://replica/v1", http_client=http, max_retries=0)


def directly(auto: Any, folder: Path) -> Any:
    pipeline = auto.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def png(colour: str = "red", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (SIDE, SIDE), colour).save(file, "PNG")
    return file.getvalue()


def pixels(base64_text: str | None) -> bytes:
    assert base64_text is not None
    return Image.open(io.BytesIO(base64.b64decode(base64_text))).tobytes()


async def test_the_sdk_gets_the_librarys_own_pictures(sdk: openai.AsyncOpenAI, folder: Path) -> None:
    answer = await sdk.images.generate(
        model="tiny", prompt="a red box", n=1, size="auto", extra_body={"seed": 5, "steps": 3}
    )
    own = directly(AutoPipelineForText2Image, folder)(
        prompt="a red box", num_inference_steps=3, generator=seeded(5)
    ).images[0]
    assert answer.data is not None
    assert pixels(answer.data[0].b64_json) == own.tobytes()
    assert answer.usage is not None and answer.usage.input_tokens > 2


async def test_n_pictures_have_n_seeds(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.images.generate(model="tiny", prompt="a box", n=6, extra_body={"steps": 2})
    assert answer.data is not None
    assert len({pixels(picture.b64_json) for picture in answer.data}) == 6


async def test_a_stream_ends_with_the_picture_that_comes_whole_too(sdk: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "tiny", "prompt": "a box", "extra_body": {"steps": 4, "seed": 1}}
    whole = await sdk.images.generate(**asked)
    events = [event async for event in await sdk.images.generate(**asked, stream=True, partial_images=2)]
    *partial, last = events
    assert [
        event.partial_image_index for event in partial if isinstance(event, ImageGenPartialImageEvent)
    ] == [0, 1]
    assert isinstance(last, ImageGenCompletedEvent)
    assert whole.data is not None
    assert last.b64_json == whole.data[0].b64_json
    assert last.size == f"{SIDE}x{SIDE}"


async def test_a_picture_is_edited_as_by_the_library(sdk: openai.AsyncOpenAI, folder: Path) -> None:
    answer = await sdk.images.edit(
        model="tiny",
        prompt="lunch",
        image=("a.png", png()),
        extra_body={"seed": 2, "steps": 4, "strength": 0.5},
    )
    own = directly(AutoPipelineForImage2Image, folder)(
        prompt="lunch",
        image=Image.open(io.BytesIO(png())),
        strength=0.5,
        num_inference_steps=4,
        generator=seeded(2),
    ).images[0]
    assert answer.data is not None
    assert pixels(answer.data[0].b64_json) == own.tobytes()


async def test_a_mask_and_a_list_of_pictures_are_taken(sdk: openai.AsyncOpenAI) -> None:
    masked: Any = {
        "model": "tiny",
        "prompt": "lunch",
        "mask": ("m.png", png("white")),
        "extra_body": {"steps": 2},
    }
    answer = await sdk.images.edit(image=[("a.png", png())], **masked)
    assert answer.data is not None and len(answer.data) == 1
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.images.edit(image=[("a.png", png()), ("b.png", png())], **masked)
    assert caught.value.param == "image"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the route, says the SDK
async def test_a_variation_begins_from_the_picture(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.images.create_variation(
        model="tiny", image=("a.png", png()), n=2, extra_body={"steps": "4", "seed": "3"}
    )
    assert answer.data is not None and len(answer.data) == 2


async def test_what_the_model_cannot_do_is_told(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.images.generate(model="tiny", prompt="a box", size="1024x1024")
    assert caught.value.param == "size"
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.images.generate(model="tiny", prompt="a box", extra_body={"prompt_2": "x"})
    assert caught.value.code == "unsupported_parameter"


async def test_who_leaves_frees_the_engine(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: asyncio.Queue[None] = asyncio.Queue()
    loop, advance = asyncio.get_running_loop(), Watch.advance

    def told(watch: Watch) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, None)
        advance(watch)

    monkeypatch.setattr(Watch, "advance", told)
    body = {"model": "tiny", "prompt": "a box", "steps": 150, "size": "64x32"}
    for _ in range(5):
        asking = asyncio.create_task(http.post("/v1/images/generations", json=body | {"n": 10}))
        await steps.get()
        asking.cancel()
        await asyncio.wait({asking})
    answer = await http.post("/v1/images/generations", json=body | {"steps": 1})
    assert answer.status_code == 200
    assert steps.qsize() < 150  # of one request alone there would have been several times as many
