"""Pictures of the built-in model show what was asked for: a classifier of real handwriting reads them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.svm import SVC  # type: ignore[import-untyped]

from ekiben.catalog.specs import resolve_model
from ekiben.contract import DrawRequest, Picture, testing
from ekiben.plugins.discovery import discover, load_object
from ekiben.runtime.vision.drawing import ROUTES
from tests.digits.words import NAMES
from tests.replica_routes import client

NAME = "digits-diffusion"
PLUGINS = discover()
SPEC = resolve_model(NAME, plugins=PLUGINS)
FOLDER = Path(SPEC.variants[0].source.parameters["path"])
STEPS = 8
GUIDANCE = 3.0
MAX_BYTES = 4_000_000
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


async def opened(scratch: Path) -> Any:
    """The model, with one thread and as many pictures at once as there may be."""
    plugin = PLUGINS.engines()["diffusers"]
    assert plugin.manifest.engine is not None
    options = plugin.manifest.engine.defaults() | {"max_batch": 64, "steps": STEPS, "guidance": GUIDANCE}
    engine: Any = load_object(plugin)
    return await engine.load(testing.load_request(SPEC, FOLDER, scratch=scratch, options=options, threads=1))


@pytest.fixture(scope="module")
def reader() -> SVC:
    """Has seen real digits only."""
    digits = load_digits()
    return SVC(gamma=0.001).fit(digits.data, digits.target)


def read(reader: SVC, pictures: Sequence[Image.Image]) -> list[int]:
    """Each picture as the real digits are: 8 x 8, ink from 0 to 16."""
    small = [picture.convert("L").resize((8, 8), Image.Resampling.BOX) for picture in pictures]
    ink = [(255 - np.asarray(picture, dtype=np.float64)).ravel() / 255 * 16 for picture in small]
    return [int(digit) for digit in reader.predict(ink)]


class Watched:
    """A run that somebody waits for."""

    wanted = True

    def waits_for(self, index: int) -> bool:
        return True

    def tell(self, index: int, news: object) -> None:
        pass


def drawn(model: Any, requests: Sequence[DrawRequest]) -> list[Image.Image]:
    """All requests in as few batches as the engine takes."""
    (batching,) = {id(b): b for a, b in model.batching.items() if a == "generate_image"}.values()
    items = [item for request in requests for item in batching.items(request)]
    assert len({item.group for item in items}) == 1
    pictures: list[Picture] = []
    for start in range(0, len(items), batching.max_items):
        values = [item.value for item in items[start : start + batching.max_items]]
        pictures += batching.compute(batching.prepare(values), Watched())
    return [
        Image.frombytes("RGB", (picture.pixels.width, picture.pixels.height), picture.pixels.data)
        for picture in pictures
    ]


async def test_it_is_small_and_in_the_library_s_own_classes() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    pipeline = AutoPipelineForText2Image.from_pretrained(FOLDER, local_files_only=True)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"


async def test_ninety_of_a_hundred_pictures_are_read_as_what_was_asked_for(
    tmp_path: Path, reader: SVC
) -> None:
    model = await opened(tmp_path)
    requests = [
        DrawRequest(prompt=f"a handwritten {name}", n=10, seed=100 * digit, steps=STEPS, guidance=GUIDANCE)
        for digit, name in enumerate(NAMES)
    ]
    pictures = drawn(model, requests)
    assert {picture.size for picture in pictures} == {(32, 32)}
    right = [number // 10 == digit for number, digit in enumerate(read(reader, pictures))]
    assert len(right) == 100
    assert sum(right) >= 90
    assert len({picture.tobytes() for picture in pictures}) == 100, "no two are alike"
    again = drawn(model, [requests[7]])
    assert read(reader, again).count(7) >= 9
    await model.unload()


async def test_other_words_for_the_same(tmp_path: Path, reader: SVC) -> None:
    model = await opened(tmp_path)
    prompts = ("7", "the digit 3", "A Picture of the Number Five", "zero")
    asked = [DrawRequest(prompt=text, n=5, seed=5, steps=STEPS, guidance=GUIDANCE) for text in prompts]
    digits = read(reader, drawn(model, asked))
    wanted = [digit for digit in (7, 3, 5, 0) for _ in range(5)]
    assert sum(one == other for one, other in zip(digits, wanted, strict=True)) >= 17
    await model.unload()


async def test_asked_for_and_changed_over_the_api(tmp_path: Path, reader: SVC) -> None:
    model = await opened(tmp_path)
    async with client(SPEC, model, ROUTES) as http:
        body = {"model": NAME, "prompt": "a handwritten three", "n": 4, "seed": 1}
        made = await http.post("/v1/images/generations", json=body)
        assert made.status_code == 200, made.text
        threes = [base64.b64decode(one["b64_json"]) for one in made.json()["data"]]
        form = {"model": NAME, "prompt": "a handwritten eight", "strength": "0.9", "n": "4", "seed": "2"}
        changed = await http.post("/v1/images/edits", data=form, files={"image": threes[0]})
        assert changed.status_code == 200, changed.text
        eights = [base64.b64decode(one["b64_json"]) for one in changed.json()["data"]]
    await model.unload()
    assert read(reader, [Image.open(io.BytesIO(png)) for png in threes]).count(3) >= 3
    assert read(reader, [Image.open(io.BytesIO(png)) for png in eights]).count(8) >= 3
