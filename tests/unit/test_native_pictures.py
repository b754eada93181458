"""Pictures through BentoML's own API: the same engine, a PNG file."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from ekiben.contract import Ability, Drawn, DrawRequest, InvalidRequest, Picture, Pixels, Step

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a library that BentoML uses, as it is imported
    from bentoml.exceptions import BentoMLException

    from ekiben.runtime.native import VisionBento


class Painter:
    def __init__(self) -> None:
        self.asked: list[DrawRequest] = []

    async def generate_image(self, request: DrawRequest) -> AsyncGenerator[Drawn, None]:
        self.asked.append(request)
        if request.prompt == "nothing":
            raise InvalidRequest("this cannot be drawn", param="prompt")
        yield Step(index=0, done=1, total=1)
        yield Picture(index=0, pixels=Pixels(width=2, height=1, data=b"\1\2\3\4\5\6"), seed=request.seed or 0)

    edit_image = generate_image


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def bento(painter: Painter) -> Any:
    made: Any = VisionBento()
    abilities = {Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}
    model = SimpleNamespace(name="painter", abilities=abilities)
    made.host = SimpleNamespace(model=model, able=lambda ability: painter)
    return made


async def called(bento: Any, method: str, folder: Path, **fields: Any) -> Image.Image:
    context = SimpleNamespace(temp_dir=str(folder))
    own = ("negative_prompt", "guidance") if method == "generate_image" else ("strength",)
    usual = dict.fromkeys(("steps", "seed", *own))
    path = await getattr(VisionBento, method).func(bento, context, **(usual | fields))
    with Image.open(path) as image:
        image.load()
    return image


async def test_a_text_becomes_a_file(bento: Any, painter: Painter, tmp_path: Path) -> None:
    image = await called(bento, "generate_image", tmp_path, prompt="a box", seed=4, steps=2)
    assert (image.format, image.size, image.getpixel((1, 0))) == ("PNG", (2, 1), (4, 5, 6))
    assert painter.asked == [DrawRequest(prompt="a box", seed=4, steps=2)]


async def test_a_picture_becomes_another(bento: Any, painter: Painter, tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    Image.new("RGB", (4, 4), "red").save(source)
    image = await called(bento, "edit_image", tmp_path, image=source, prompt="a box", strength=0.5)
    assert image.size == (2, 1)
    assert painter.asked[0].strength == 0.5
    assert len(painter.asked[0].images) == 1


async def test_what_cannot_be_is_told(bento: Any, tmp_path: Path) -> None:
    with pytest.raises(BentoMLException, match="cannot be drawn"):
        await called(bento, "generate_image", tmp_path, prompt="nothing")
    bento.host.model.abilities.clear()
    with pytest.raises(BentoMLException, match="generate_image"):
        await called(bento, "generate_image", tmp_path, prompt="a box")
