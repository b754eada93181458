"""Stable Diffusion 3, Flux and Qwen-Image in the engine diffusers, beside the library called directly."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image
from PIL import Image

from ekiben.contract import DrawRequest, GivenUp, InvalidRequest, UnsupportedParameter
from tests.diffusers_engine import News, draw, open_model, seeded
from tests.tiny_flow_pipelines import save_flux, save_qwen_image, save_stable_diffusion_3

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

STEPS = 3
WIDTH, HEIGHT = 32, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A pipeline, and what is its own way."""

    save: Callable[[Path], Path]
    native: int
    """What its pictures measure where nobody says."""
    guidance: str


KINDS = {
    "sd3": Kind(save=save_stable_diffusion_3, native=32, guidance="guidance_scale"),
    "flux": Kind(save=save_flux, native=256, guidance="guidance_scale"),
    "qwen": Kind(save=save_qwen_image, native=256, guidance="true_cfg_scale"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The engine's model, and the library's pipeline of the same folder."""

    kind: Kind
    model: Any
    pipeline: Any

    def own(self, auto: Any = AutoPipelineForText2Image, /, **arguments: Any) -> list[bytes]:
        """What the library draws."""
        pipeline = auto.from_pipe(self.pipeline)
        pipeline.set_progress_bar_config(disable=True)
        usual: dict[str, Any] = {"num_inference_steps": STEPS, "width": WIDTH, "height": HEIGHT}
        return [image.tobytes() for image in pipeline(**usual | arguments).images]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    kind = KINDS[request.param]
    folder = kind.save(tmp_path_factory.mktemp(request.param))
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.vae.enable_slicing()  # as the engine does: the last bits of a batch depend on it
    model = await open_model(folder, tmp_path_factory.mktemp("scratch"), max_batch=8)
    yield Pair(kind=kind, model=model, pipeline=pipeline)
    await model.unload()


BOX = DrawRequest(prompt="a red box", steps=STEPS, seed=11, width=WIDTH, height=HEIGHT)


def picture_data(pair: Pair, request: DrawRequest) -> list[bytes]:
    pictures = draw(pair.model, request)
    assert {(picture.pixels.width, picture.pixels.height) for picture in pictures} == {(WIDTH, HEIGHT)}
    return [picture.pixels.data for picture in pictures]


def png(colour: str) -> bytes:
    image = Image.new("RGB", (WIDTH, HEIGHT), colour)
    image.paste("blue", (0, 0, WIDTH // 2, HEIGHT // 2))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


async def test_a_picture_is_the_librarys_own_for_its_seed(pair: Pair) -> None:
    (drawn,) = picture_data(pair, BOX)
    assert [drawn] == pair.own(prompt="a red box", generator=seeded(11))
    assert picture_data(pair, replace(BOX, seed=12)) != [drawn]
    assert picture_data(pair, replace(BOX, prompt="lunch of a box")) != [drawn]


async def test_pictures_of_one_batch_are_the_librarys_own_batch(pair: Pair) -> None:
    drawn = picture_data(pair, replace(BOX, n=3))
    assert drawn == pair.own(prompt=["a red box"] * 3, generator=seeded(11, 12, 13))
    assert len(set(drawn)) == 3


async def test_guidance_goes_under_the_pipelines_own_name(pair: Pair) -> None:
    asked = replace(BOX, guidance=6.0, negative_prompt="lunch")
    arguments = {"prompt": "a red box", "negative_prompt": "lunch", pair.kind.guidance: 6.0}
    assert picture_data(pair, asked) == pair.own(**arguments, generator=seeded(11))
    assert picture_data(pair, replace(asked, guidance=2.0)) != picture_data(pair, asked)


async def test_a_picture_from_a_picture_is_the_librarys_own(pair: Pair) -> None:
    asked = replace(BOX, images=[png("red")], strength=0.7)
    begun = Image.open(io.BytesIO(png("red")))
    assert picture_data(pair, asked) == pair.own(
        AutoPipelineForImage2Image, prompt="a red box", image=begun, strength=0.7, generator=seeded(11)
    )


async def test_a_picture_under_a_mask_is_the_librarys_own(pair: Pair) -> None:
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    mask.paste(255, (0, 0, WIDTH // 2, HEIGHT))
    file = io.BytesIO()
    mask.save(file, "PNG")
    asked = replace(BOX, images=[png("red")], mask=file.getvalue(), strength=0.9)
    assert picture_data(pair, asked) == pair.own(
        AutoPipelineForInpainting,
        prompt="a red box",
        image=Image.open(io.BytesIO(png("red"))),
        mask_image=mask,
        strength=0.9,
        generator=seeded(11),
    )


async def test_steps_and_previews_are_told_and_change_nothing(pair: Pair) -> None:
    run = News()
    (drawn,) = draw(pair.model, replace(BOX, previews=2), run=run)
    assert run.steps(0) == list(range(1, STEPS + 1))
    assert [preview.number for preview in run.previews(0)] == [0, 1]
    assert {(p.pixels.width, p.pixels.height) for p in run.previews(0)} == {(WIDTH, HEIGHT)}
    assert [drawn.pixels.data] == picture_data(pair, BOX)


async def test_it_ends_between_two_steps_and_draws_on(pair: Pair) -> None:
    run = News(give_up_after=2)
    with pytest.raises(GivenUp):
        draw(pair.model, replace(BOX, steps=50), run=run)
    assert run.steps(0) == [1, 2]
    assert picture_data(pair, BOX) == pair.own(prompt="a red box", generator=seeded(11))


async def test_sizes_are_multiples_of_what_is_packed_together(pair: Pair) -> None:
    with pytest.raises(InvalidRequest, match="multiples of 4"):
        draw(pair.model, replace(BOX, width=30))


async def test_its_own_size_is_known(pair: Pair) -> None:
    (item,) = pair.model.batching["generate_image"].items(DrawRequest(prompt="a red box"))
    assert item.length == pair.kind.native**2


async def test_what_a_pipeline_does_not_know_is_refused_by_name(pair: Pair) -> None:
    with pytest.raises(UnsupportedParameter, match="'eta'") as caught:
        draw(pair.model, replace(BOX, options={"eta": 0.5}))
    assert caught.value.param == "eta"
