"""Texts of all lengths in one row: the vectors that each of them has alone, from real classes of models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ekiben.contract import EmbedRequest
from ekiben.contract.model import Ability
from ekiben.runtime.batching.fronts import Fronts
from tests.replica_routes import embedder_spec, load_folder
from tests.tiny_encoders import WORDS, pooled_folder

SPEC = embedder_spec("packed")
WORDS_OF = WORDS.split()
TEXTS = [" ".join(WORDS_OF[first : first + count]) for first in (0, 3) for count in (9, 1, 20, 4, 1, 9, 27)]


async def embedded(folder: Path, cache: Path, requests: list[list[str]]) -> tuple[Any, list[Any]]:
    loaded = await load_folder(SPEC, folder, cache)
    front = Fronts(loaded).able(Ability.EMBED)
    answers = await asyncio.gather(*(front.embed(EmbedRequest(inputs=texts)) for texts in requests))
    packs = loaded.batching[Ability.EMBED].packs
    await loaded.unload()
    return packs, [np.asarray(answer.vectors) for answer in answers]


@pytest.fixture
def library() -> Callable[[Path, list[str]], Any]:
    def encode(folder: Path, texts: list[str]) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=1)

    return encode


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("kind", ["bert", "camembert", "roberta", "xlm-roberta"])
async def test_packed_texts_have_the_vectors_of_lone_ones(
    tmp_path: Path, library: Callable[[Path, list[str]], Any], kind: str, pooling: str
) -> None:
    folder = pooled_folder(tmp_path / "model", kind=kind, pooling=pooling)
    packs, (together, *alone) = await embedded(folder, tmp_path, [TEXTS, *([text] for text in TEXTS)])
    assert packs
    expected = library(folder, TEXTS)
    assert np.abs(together - expected).max() < 1e-5
    assert np.abs(np.concatenate(alone) - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-2, "texts that are all alike show nothing"


@pytest.mark.parametrize("kind", ["mpnet", "modernbert"])
async def test_models_that_look_beyond_a_text_are_padded(
    tmp_path: Path, library: Callable[[Path, list[str]], Any], kind: str
) -> None:
    folder = pooled_folder(tmp_path / "model", kind=kind, pooling="mean")
    packs, (together,) = await embedded(folder, tmp_path, [TEXTS])
    assert not packs
    assert np.abs(together - library(folder, TEXTS)).max() < 1e-4
