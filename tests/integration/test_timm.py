"""timm's classifiers: they see in a picture what the library sees, from folders and checkpoints."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ekiben.catalog.specs import resolve_model
from ekiben.contract import (
    Ability,
    ClassifyRequest,
    GivenUp,
    InvalidRequest,
    Label,
    LoadFailed,
    ModelSpec,
    UnsupportedParameter,
    testing,
)
from ekiben.plugins.discovery import discover
from ekiben.runtime.vision.recognition import ROUTES
from ekiben_timm.library import timm
from ekiben_timm.pictures import look_at
from ekiben_timm.recipe import Recipe
from tests.replica_routes import client, load_folder

NAME = "efficientnet-lite0"
PICTURES = {"flower.jpg": "daisy", "china.jpg": "palace"}
"""Photographs that scikit-learn ships, and what is in them."""
DAISY = 0.322994
"""Measured with timm and its own transforms, which need torchvision."""
TINY = "test_resnet"


class Wanted:
    """A run that everybody waits for, until it has been asked often enough."""

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks

    @property
    def wanted(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def waits_for(self, index: int) -> bool:
        return True

    def tell(self, index: int, news: object) -> None:
        pass


def photograph(name: str) -> bytes:
    return (files("sklearn.datasets") / "images" / name).read_bytes()


def png(width: int, height: int, seed: int = 0) -> bytes:
    noise = torch.randint(0, 255, (5, 6, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(noise.numpy()).resize((width, height)).save(file, "PNG")
    return file.getvalue()


def together(model: Any, images: Sequence[bytes], run: Wanted | None = None) -> list[list[Label]]:
    """As the runtime's batcher does, with all of them in one batch."""
    batching = model.batching[Ability.CLASSIFY]
    requests = [ClassifyRequest(image=image) for image in images]
    values = [item.value for request in requests for item in batching.items(request)]
    results = batching.compute(batching.prepare(values), run or Wanted())
    return [batching.answer(request, [result]) for request, result in zip(requests, results, strict=True)]


def spec() -> ModelSpec:
    return resolve_model(NAME, plugins=discover())


@pytest.fixture(scope="module")
def checkpoint(weights: Callable[[str], Path]) -> Path:
    return weights(NAME)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


async def opened(path: Path, cache: Path, architecture: str = "tf_efficientnet_lite0") -> Any:
    variant = spec().variants[0].model_copy(update={"options": {"architecture": architecture}})
    model = spec().model_copy(update={"variants": (variant,)})
    return await load_folder(model, path, cache, cache=cache)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path, cache: Path) -> Any:
    return asyncio.run(opened(checkpoint, cache))


def library_says(checkpoint: Path, image: bytes) -> torch.Tensor:
    """timm alone: its own model, whose tensors come in the checkpoint's order, and a picture cut by hand."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(checkpoint, weights_only=True).values()
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    short = min(picture.size)
    width, height = (int(256 * side / short) for side in picture.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    seen = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    numbers = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        shares: torch.Tensor = model((numbers - 0.5) / 0.5).softmax(-1)[0]
    return shares


async def test_it_does_what_such_models_must(loaded: Any, tmp_path: Path) -> None:
    await testing.check_abilities(loaded, spec(), tmp_path)


@pytest.mark.parametrize("name", PICTURES)
async def test_it_sees_what_is_in_a_photograph_as_the_library_does(
    name: str, loaded: Any, checkpoint: Path
) -> None:
    [labels] = together(loaded, [photograph(name)])
    assert labels[0].label == PICTURES[name]
    assert len(labels) == 1000
    expected = library_says(checkpoint, photograph(name)).sort(descending=True).values.tolist()
    assert [label.score for label in labels] == pytest.approx(expected, abs=1e-5)
    if name == "flower.jpg":
        assert labels[0].score == pytest.approx(DAISY, abs=1e-5)


async def test_pictures_of_several_requests_are_seen_together(loaded: Any) -> None:
    images = [*map(photograph, PICTURES), png(300, 60), png(40, 50, seed=1)]
    for labels, image in zip(together(loaded, images), images, strict=True):
        [alone] = together(loaded, [image])
        assert labels[0].label == alone[0].label
        assert labels[0].score == pytest.approx(alone[0].score, abs=1e-5)


async def test_it_answers_over_its_route(loaded: Any) -> None:
    async with client(spec(), loaded, ROUTES) as replica:
        answer = await replica.post(
            "/v1/images/classify",
            data={"model": NAME, "top_k": "2"},
            files={"image": ("flower.jpg", photograph("flower.jpg"))},
        )
    assert answer.status_code == 200, answer.text
    assert [label["label"] for label in answer.json()["labels"]] == ["daisy", "bee"]


async def test_a_pass_that_nobody_waits_for_ends_between_two_layers(loaded: Any) -> None:
    run = Wanted(looks=5)
    with pytest.raises(GivenUp):
        together(loaded, [png(224, 224)], run)
    assert run.looks == -1, "it ended at once"
    assert together(loaded, [photograph("flower.jpg")])[0][0].label == "daisy", "and another one is whole"


async def test_what_it_cannot_see_is_the_requests_fault(loaded: Any) -> None:
    batching = loaded.batching[Ability.CLASSIFY]
    for image, reason in ((b"no picture", "is broken"), (png(30_000, 4), "too long for its width")):
        with pytest.raises(InvalidRequest, match=reason):
            batching.items(ClassifyRequest(image=image))
    with pytest.raises(UnsupportedParameter):
        batching.items(ClassifyRequest(image=png(9, 9), labels=["x"]))


async def test_a_conversion_is_kept_and_made_anew_where_it_is_broken(
    loaded: Any, checkpoint: Path, cache: Path
) -> None:
    [made] = cache.glob("*.safetensors")
    first = made.stat()
    await opened(checkpoint, cache)
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    os.truncate(made, first.st_size // 2)
    again = await opened(checkpoint, cache)
    assert made.stat().st_size == first.st_size and [*cache.glob("timm*")] == [made]
    assert together(again, [photograph("flower.jpg")])[0][0].label == "daisy"


async def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for architecture, reason in (
        ("tf_efficientnet_lite1", r"is not of tf_efficientnet_lite1: \d+ of \d+ tensors do not fit"),
        ("no_such_model", "has no model named 'no_such_model'"),
        ("", "name it with the option architecture"),
    ):
        with pytest.raises(LoadFailed, match=reason):
            await opened(checkpoint, tmp_path, architecture)
    assert not [*tmp_path.glob("*.safetensors")]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [False, True])
async def test_no_program_in_a_checkpoint_is_run(zipped: bool, tmp_path: Path) -> None:
    torch.save(
        {"conv_stem.weight": Bomb(tmp_path / "ran")},
        tmp_path / "model.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(LoadFailed, match="holds more than tensors, or is damaged: nothing of it was run"):
        await opened(tmp_path / "model.pth", tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.zeros(1).expand(10**6), "is no table of tensors"),
        ({"conv_stem.weight": torch.zeros(1).expand(10**6)}, "holds more than its size"),
        ({"model": {"conv_stem.weight": 3}}, "is no table of tensors"),
        (b"\x80", "cannot be loaded|is damaged"),
    ],
)
async def test_what_is_no_checkpoint_is_refused(content: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(LoadFailed, match=reason):
        await opened(path, tmp_path / "cache")


def tiny_folder(folder: Path, **config: Any) -> Path:
    """As timm saves a model."""
    torch.manual_seed(5)
    model = timm.create_model(TINY, num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")
    facts = {"input_size": [3, 64, 96], "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "border"}
    whole = {"architecture": TINY, "num_classes": 3, "pretrained_cfg": facts, "label_names": ["a", "b", "c"]}
    (folder / "config.json").write_text(json.dumps(whole | config))
    return folder


async def test_a_folder_of_timm_says_what_the_library_says(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, label_descriptions={"b": "a lunch box"})
    model = await opened(folder, tmp_path, "")
    [labels] = together(model, [png(50, 70)])
    torch.manual_seed(5)
    same = timm.create_model(TINY, num_classes=3).eval()
    recipe = Recipe.of(json.loads((folder / "config.json").read_text())["pretrained_cfg"])
    with torch.inference_mode():
        expected = same(torch.from_numpy(look_at(png(50, 70), recipe))[None]).softmax(-1)[0].tolist()
    assert {label.label: label.score for label in labels} == pytest.approx(
        dict(zip(("a", "a lunch box", "c"), expected, strict=True)), abs=1e-5
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architecture": None}, "names no architecture of timm"),
        ({"architecture": "no_such_model"}, "has no model named"),
        ({"num_classes": 0}, "has no classes"),
        ({"num_classes": 4, "label_names": None}, "cannot be loaded as test_resnet"),
        ({"label_names": ["a"]}, "names 1 labels for 3 classes"),
        ({"model_args": {"checkpoint_path": "/x.pth"}}, "'checkpoint_path', which is no measure of a model"),
        ({"model_args": {"no_such": 1}}, "cannot be loaded as test_resnet"),
        ({"pretrained_cfg": {"input_size": [1, 64, 64]}}, "pictures of 1 channels"),
        ({"pretrained_cfg": {"interpolation": "by magic"}}, "interpolation 'by magic'"),
        ({"pretrained_cfg": {"mean": [1]}}, "does not say how pictures are made ready"),
    ],
)
async def test_folders_that_cannot_be_loaded_are_refused(
    config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match=reason):
        await opened(tiny_folder(tmp_path, **config), tmp_path, "")


async def test_a_broken_folder_is_refused(tmp_path: Path) -> None:
    os.truncate(tiny_folder(tmp_path) / "model.safetensors", 1000)
    with pytest.raises(LoadFailed, match="is not a safetensors file"):
        await opened(tmp_path, tmp_path, "")


def test_torchvision_is_not_needed_and_nothing_stands_in_for_it_afterwards() -> None:
    assert "timm" in sys.modules
    assert not [name for name in sys.modules if name.startswith("torchvision")]
