"""The engine diffusers, beside the library called directly: the same seed gives the same bytes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    EulerDiscreteScheduler,
)
from PIL import Image

from ekiben.catalog.inspect import look
from ekiben.contract import (
    Ability,
    DrawRequest,
    Family,
    GivenUp,
    InvalidRequest,
    LoadFailed,
    Picture,
    UnsupportedParameter,
    testing,
)
from ekiben.plugins.discovery import parse_manifest
from ekiben_diffusers.engine import Diffusers
from ekiben_diffusers.pictures import fitting
from tests.diffusers_engine import MANIFEST, News, draw, load_request, open_model, seeded
from tests.tiny_pipelines import save_adapter, save_stable_diffusion, save_stable_diffusion_xl

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]

STEPS = 3
SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are computed quickest by one, and the tests' machine has other things to do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("stable-diffusion"))


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(folder, tmp_path_factory.mktemp("adapter"), seed=5)


def data(picture: Picture) -> bytes:
    assert (picture.pixels.width, picture.pixels.height) == (SIDE, SIDE)
    return picture.pixels.data


def directly(auto: Any, folder: Path) -> Any:
    pipeline = auto.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, safety_checker=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()  # without it, the last bits of pictures in a batch may differ
    return pipeline


def png(colour: str = "red", *, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    image = Image.new("RGB", size, colour)
    image.paste("blue", (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def text_pipeline(folder: Path) -> Any:
    """The library's own, for comparison."""
    return directly(AutoPipelineForText2Image, folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(folder: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    loaded = await open_model(folder, tmp_path_factory.mktemp("scratch"), max_batch=8)
    yield loaded
    await loaded.unload()


# The library's own bytes


async def test_a_picture_is_the_librarys_own_for_its_seed(model: Any, text_pipeline: Any) -> None:
    request = DrawRequest(prompt="a red box", steps=STEPS, seed=11, guidance=4.0, negative_prompt="lunch")
    (picture,) = draw(model, request)

    own = text_pipeline(
        prompt="a red box",
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        negative_prompt="lunch",
        generator=seeded(11),
    ).images[0]
    assert data(picture) == own.tobytes()
    assert picture.seed == 11
    assert picture.prompt_tokens == len(text_pipeline.tokenizer("a red box")["input_ids"])
    (other,) = draw(model, replace(request, seed=12))
    assert data(other) != data(picture)


async def test_pictures_of_one_batch_are_the_librarys_own_batch(model: Any, text_pipeline: Any) -> None:
    first = DrawRequest(prompt="a red box", steps=STEPS, seed=3, n=2)
    second = DrawRequest(prompt="lunch", steps=STEPS, seed=40)
    pictures = draw(model, first, second)

    own = text_pipeline(
        prompt=["a red box", "a red box", "lunch"], num_inference_steps=STEPS, generator=seeded(3, 4, 40)
    ).images
    assert [data(picture) for picture in pictures] == [image.tobytes() for image in own]
    assert [(picture.index, picture.seed) for picture in pictures] == [(0, 3), (1, 4), (0, 40)]


async def test_another_scheduler_is_used_for_one_request_only(
    model: Any, folder: Path, text_pipeline: Any
) -> None:
    plain = DrawRequest(prompt="a red box", steps=STEPS, seed=1)
    (before,) = draw(model, plain)
    (picture,) = draw(model, replace(plain, scheduler="EulerDiscreteScheduler"))
    (after,) = draw(model, plain)

    direct = directly(AutoPipelineForText2Image, folder)
    direct.scheduler = EulerDiscreteScheduler.from_config(direct.scheduler.config)
    own = direct(prompt="a red box", num_inference_steps=STEPS, generator=seeded(1)).images[0]
    assert data(picture) == own.tobytes()
    assert data(before) == data(after) != data(picture)


async def test_a_picture_from_a_picture_is_the_librarys_own(model: Any, folder: Path) -> None:
    request = DrawRequest(prompt="a box", images=[png()], strength=0.7, steps=5, seed=2, n=2)
    pictures = draw(model, request)

    image = Image.open(io.BytesIO(png()))
    own = directly(AutoPipelineForImage2Image, folder)(
        prompt=["a box"] * 2, image=[image] * 2, strength=0.7, num_inference_steps=5, generator=seeded(2, 3)
    ).images
    assert [data(picture) for picture in pictures] == [image.tobytes() for image in own]


async def test_what_is_transparent_in_the_mask_is_painted(model: Any, folder: Path) -> None:
    hole = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    file = io.BytesIO()
    hole.save(file, "PNG")
    request = DrawRequest(prompt="a box", images=[png()], mask=file.getvalue(), steps=STEPS, seed=8)
    (picture,) = draw(model, request)

    white = Image.new("L", (SIDE, SIDE), 0)
    white.paste(255, (0, 0, SIDE // 2, SIDE))
    own = directly(AutoPipelineForInpainting, folder)(
        prompt="a box",
        image=Image.open(io.BytesIO(png())),
        mask_image=white,
        width=SIDE,
        height=SIDE,
        num_inference_steps=STEPS,
        generator=seeded(8),
    ).images[0]
    assert data(picture) == own.tobytes()
    file = io.BytesIO()
    white.save(file, "PNG")
    (same,) = draw(model, replace(request, mask=file.getvalue()))
    assert data(same) == data(picture)


async def test_a_larger_pipeline_is_the_librarys_own_too(tmp_path: Path) -> None:
    folder = save_stable_diffusion_xl(tmp_path / "xl")
    model = await open_model(folder, tmp_path)
    run = News()
    (picture,) = draw(
        model,
        DrawRequest(prompt="a red box", steps=STEPS, seed=6, previews=1, options={"prompt_2": "lunch"}),
        run=run,
    )
    await model.unload()

    own = directly(AutoPipelineForText2Image, folder)(
        prompt="a red box", prompt_2="lunch", num_inference_steps=STEPS, generator=seeded(6)
    ).images[0]
    assert data(picture) == own.tobytes()
    assert len(run.previews(0)) == 1


# Adapters


async def test_an_adapter_is_put_on_for_those_who_ask(
    folder: Path, adapter: Path, tmp_path: Path, text_pipeline: Any
) -> None:
    other = save_adapter(folder, tmp_path / "other", seed=9)
    model = await open_model(folder, tmp_path, adapters={"v1.5": adapter, "other": other})
    request = DrawRequest(prompt="a red box", steps=STEPS, seed=1, adapter="v1.5")
    (worn,) = draw(model, request)
    (plain,) = draw(model, replace(request, adapter=None))
    (second,) = draw(model, replace(request, adapter="other"))
    (again,) = draw(model, request)
    with pytest.raises(InvalidRequest):
        draw(model, replace(request, adapter="stranger"))
    await model.unload()

    def own(pipeline: Any) -> bytes:
        image = pipeline(prompt="a red box", num_inference_steps=STEPS, generator=seeded(1)).images[0]
        return bytes(image.tobytes())

    direct = directly(AutoPipelineForText2Image, folder)
    direct.load_lora_weights(adapter, weight_name="pytorch_lora_weights.safetensors")
    assert data(worn) == data(again) == own(direct)
    assert data(plain) == own(text_pipeline)
    assert len({data(worn), data(plain), data(second)}) == 3


# On the way


async def test_steps_and_previews_are_told(model: Any) -> None:
    run = News()
    first = DrawRequest(prompt="a box", steps=6, seed=1, previews=2)
    second = DrawRequest(prompt="lunch", steps=6, seed=2)
    draw(model, first, second, run=run)

    assert run.steps(0) == run.steps(1) == [1, 2, 3, 4, 5, 6]
    assert [preview.number for preview in run.previews(0)] == [0, 1]
    assert run.previews(1) == []
    shown = [preview.pixels for preview in run.previews(0)]
    assert {(pixels.width, pixels.height) for pixels in shown} == {(SIDE, SIDE)}
    assert shown[0].data != shown[1].data


async def test_a_preview_changes_nothing(model: Any) -> None:
    request = DrawRequest(prompt="a box", steps=4, seed=1)
    (plain,), (shown,) = draw(model, request), draw(model, replace(request, previews=3))
    assert data(plain) == data(shown)


async def test_no_preview_is_made_for_who_has_left(model: Any) -> None:
    run = News(unwanted=[0])
    draw(model, DrawRequest(prompt="a box", steps=4, seed=1, n=2, previews=1), run=run)
    assert (len(run.previews(0)), len(run.previews(1))) == (0, 1)


async def test_it_ends_between_two_steps(model: Any, text_pipeline: Any) -> None:
    run = News(give_up_after=2)
    with pytest.raises(GivenUp):
        draw(model, DrawRequest(prompt="a box", steps=20, seed=1), run=run)
    assert run.steps(0) == [1, 2]
    (picture,) = draw(model, DrawRequest(prompt="a box", steps=STEPS, seed=1))
    own = text_pipeline(prompt="a box", num_inference_steps=STEPS, generator=seeded(1)).images[0]
    assert data(picture) == own.tobytes()


async def test_only_what_goes_together_is_computed_together(model: Any) -> None:
    batching = model.batching[Ability.GENERATE_IMAGE]
    plain = DrawRequest(prompt="a box", steps=4, seed=1)
    others = [
        replace(plain, steps=5),
        replace(plain, guidance=2.0),
        replace(plain, width=64, height=SIDE),
        replace(plain, negative_prompt=""),
        replace(plain, scheduler="EulerDiscreteScheduler"),
        replace(plain, options={"eta": 0.5}),
        replace(plain, images=[png()]),
    ]
    groups = [batching.items(request)[0].group for request in [plain, *others]]
    assert len(set(groups)) == len(groups)
    assert batching.items(replace(plain, prompt="lunch", seed=9, previews=2))[0].group == groups[0]
    assert model.batching[Ability.EDIT_IMAGE] is batching  # one device, one computation


async def test_without_a_seed_each_picture_is_another(model: Any) -> None:
    batching = model.batching[Ability.GENERATE_IMAGE]
    seeds = {item.value.seed for _ in range(4) for item in batching.items(DrawRequest(prompt="a", n=2))}
    assert len(seeds) == 8


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"width": 33, "height": 32}, InvalidRequest, "size"),
        ({"width": 2048, "height": 2048}, InvalidRequest, "size"),
        ({"steps": 0}, InvalidRequest, "steps"),
        ({"steps": 10_000}, InvalidRequest, "steps"),
        ({"scheduler": "os.system"}, InvalidRequest, "scheduler"),
        ({"guidance": 1e9}, InvalidRequest, "guidance_scale"),
        ({"strength": 0.5}, UnsupportedParameter, "strength"),
        ({"images": [png()], "strength": 1.5}, InvalidRequest, "strength"),
        ({"images": [png()], "strength": 0.1, "steps": 3}, InvalidRequest, "strength"),
        ({"images": [png(), png()]}, InvalidRequest, "image"),
        ({"images": [png()], "mask": png(size=(16, 16))}, InvalidRequest, "mask"),
        ({"mask": png()}, InvalidRequest, "mask"),
        ({"options": {"latents": 1}}, UnsupportedParameter, "latents"),
        ({"options": {"max_sequence_length": 5}}, UnsupportedParameter, "max_sequence_length"),
        ({"options": {"eta": "much"}}, InvalidRequest, "eta"),
    ],
)
async def test_what_the_pipeline_cannot_do_is_refused_by_name(
    model: Any, change: dict[str, Any], error: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(error) as caught:
        draw(model, replace(DrawRequest(prompt="a box", steps=STEPS), **change))
    assert caught.value.param == param


async def test_a_picture_that_is_no_size_of_the_models_is_made_to_fit() -> None:
    assert fitting((1000, 700), step=8, most=10**6) == (1000, 696)
    assert fitting((4000, 2000), step=8, most=500_000) == (1000, 496)
    assert fitting((3, 9000), step=8, most=4096) == (8, 512)
    for size in ((1, 1), (9000, 3), (50_000, 1000)):
        width, height = fitting(size, step=16, most=1024)
        assert width % 16 == height % 16 == 0
        assert 0 < width * height <= 1024


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"offload": "model"}, "no GPU"),
        ({"quantization": "int4"}, "int4"),
        ({"quantization": "int8"}, "torchao"),
        ({"dtype": "float16"}, "float16"),
        ({"scheduler": "os.system"}, "scheduler"),
    ],
)
async def test_options_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises((LoadFailed, InvalidRequest), match=told):
        await open_model(folder, tmp_path, **change)


async def test_a_pickle_is_not_opened(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (weights,) = (copy / "unet").glob("*.safetensors")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(LoadFailed, match="pickle"):
        await open_model(copy, tmp_path)


async def test_code_of_a_pipelines_own_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "unet" / "own.py").write_text("raise SystemExit('was run')")
    index = json.loads((copy / "model_index.json").read_text())
    index["unet"] = ["own", "UNet"]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(LoadFailed, match="code of its own"):
        await open_model(copy, tmp_path)
    index["unet"], index["_class_name"] = ["diffusers", "UNet2DConditionModel"], ["pipeline", "Own"]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(LoadFailed, match="code of its own"):
        await open_model(copy, tmp_path)
    (copy / "model_index.json").unlink()
    with pytest.raises(LoadFailed, match=r"model_index\.json"):
        await open_model(copy, tmp_path)


async def test_options_that_save_memory_make_the_same_pictures_or_nearly(
    folder: Path, tmp_path: Path, model: Any
) -> None:
    sparing = await open_model(
        folder, tmp_path, attention_slicing=True, vae_tiling=True, steps=STEPS, guidance=4.0
    )
    (spared,) = draw(sparing, DrawRequest(prompt="a box", seed=4))
    (plain,) = draw(model, DrawRequest(prompt="a box", seed=4, steps=STEPS, guidance=4.0))
    await sparing.unload()
    apart = max(abs(a - b) for a, b in zip(data(spared), data(plain), strict=True))
    assert apart <= 2


async def test_a_folder_is_known_for_what_it_is(folder: Path) -> None:
    finding = look(folder)
    assert (finding.family, finding.format) == (Family.VISION, "diffusers")
    assert finding.abilities == {Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}
    assert finding.what.startswith("StableDiffusionPipeline")


async def test_the_estimate_covers_weights_and_work(folder: Path, tmp_path: Path) -> None:
    weights_bytes = sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    plain = Diffusers().estimate_memory(load_request(folder, tmp_path))
    large = Diffusers().estimate_memory(load_request(folder, tmp_path, max_pixels=1024 * 1024))
    half = Diffusers().estimate_memory(load_request(folder, tmp_path, dtype="bfloat16"))
    assert 0.8 * weights_bytes <= plain.weights_bytes <= weights_bytes  # headers are no weights
    assert half.weights_bytes * 2 == plain.weights_bytes
    assert large.working_bytes - plain.working_bytes > 1024 * 1024 * 8 * 4 * 4


async def test_the_plugin_keeps_the_contract() -> None:
    manifest = parse_manifest(MANIFEST)
    testing.check_manifest(manifest)
    testing.check_import(manifest)
