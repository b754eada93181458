"""A CLIP with random weights: texts and pictures in one space, the vectors those of the library."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ekiben.runtime.embedding.embeddings import ROUTES
from tests.replica_routes import client, embedder_spec, load_folder
from tests.tiny_encoders import clip_folder

SPEC = embedder_spec("clip")
TEXTS = ["the train leaves", "a lunch box at the station, and noodles"]


def picture(color: str, size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, color)
    image.paste("white", (0, 0, size[0] // 2, size[1] // 3))
    return image


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"))


async def post(folder: Path, scratch: Path, **body: Any) -> tuple[int, Any]:
    loaded = await load_folder(SPEC, folder, scratch)
    async with client(SPEC, loaded, ROUTES) as http:
        answer = await http.post("/v1/embeddings", json={"model": "clip"} | body)
    await loaded.unload()
    return answer.status_code, answer.json()


async def test_texts_and_pictures_have_the_vectors_of_the_library(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(folder), device="cpu")
    red, blue = picture("red", (30, 20)), picture("blue", (17, 40))
    parts = [{"image": data_url(red)}, TEXTS[0], {"image": data_url(blue)}, {"text": TEXTS[1]}]
    status, body = await post(folder, tmp_path, input=parts)
    assert status == 200, body
    got = np.array([item["embedding"] for item in body["data"]])
    assert np.abs(got[[0, 2]] - library.encode([red, blue])).max() < 1e-4
    assert np.abs(got[[1, 3]] - library.encode(TEXTS)).max() < 1e-4
    assert np.abs(got[0] - got[2]).max() > 1e-3, "a model that cannot tell pictures apart shows nothing"
    read = int(library.preprocess(TEXTS)["attention_mask"].sum())
    assert body["usage"]["prompt_tokens"] == read + 2 * 5  # four patches and one for all


async def test_a_picture_that_is_none_is_named(folder: Path, tmp_path: Path) -> None:
    broken = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"a" * 40).decode()
    status, body = await post(folder, tmp_path, input=["fine", {"image": broken}])
    assert (status, body["error"]["param"]) == (400, "input")
    assert "entry 1" in body["error"]["message"]
