"""A small model with prompts: which of them is put before texts, and which of its tokens count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ekiben.contract import EmbedRequest, EngineError, InvalidRequest
from ekiben.contract.model import Ability
from ekiben.runtime.batching.fronts import Fronts
from tests.replica_routes import embedder_spec, load_folder
from tests.tiny_encoders import prompted_folder

SPEC = embedder_spec("prompted")
TEXTS = ["the train", "noodles and soup at the station, for ten minutes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompted_folder(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture
async def loaded(folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    loaded = await load_folder(SPEC, folder, tmp_path)
    yield loaded
    await loaded.unload()


@pytest.mark.parametrize(
    ("asked", "prompt_name"),
    [
        ({}, "odd"),
        ({"prompt_name": "query"}, "query"),
        ({"prompt_name": "passage"}, "passage"),
        ({"input_type": "query"}, "query"),
        ({"input_type": "document"}, "passage"),
    ],
)
async def test_vectors_are_those_of_the_library(
    loaded: Any, library: Any, asked: dict[str, Any], prompt_name: str
) -> None:
    answer = await Fronts(loaded).able(Ability.EMBED).embed(EmbedRequest(inputs=TEXTS, **asked))
    expected = library.encode(TEXTS, prompt_name=prompt_name)
    assert np.abs(np.asarray(answer.vectors) - expected).max() < 1e-4
    plain = library.encode(TEXTS, prompt="")
    assert np.abs(expected - plain).max() > 1e-3, "a prompt that changes nothing shows nothing"


async def test_prompts_of_requests_at_once_do_not_mix(loaded: Any, library: Any) -> None:
    front = Fronts(loaded).able(Ability.EMBED)
    names = ["query", "passage", "odd"] * 4
    requests = [EmbedRequest(inputs=TEXTS, prompt_name=name) for name in names]
    answers = await asyncio.gather(*(front.embed(request) for request in requests))
    for name, answer in zip(names, answers, strict=True):
        expected = library.encode(TEXTS, prompt_name=name)
        assert np.abs(np.asarray(answer.vectors) - expected).max() < 1e-4


async def test_a_prompt_that_is_not_there_is_named(loaded: Any) -> None:
    with pytest.raises(
        InvalidRequest, match=r"no prompt 'sonnet' \(known: .*odd, passage, query\)"
    ) as caught:
        await Fronts(loaded).able(Ability.EMBED).embed(EmbedRequest(inputs=TEXTS, prompt_name="sonnet"))
    assert caught.value.param == "prompt_name"


async def test_one_bad_input_fails_alone(loaded: Any, library: Any) -> None:
    batching = loaded.batching[Ability.EMBED]
    bad = library.tokenizer("soup")["input_ids"][1]
    model = batching._model

    def fragile(features: Any) -> Any:
        if (features["input_ids"] == bad).any():
            raise RuntimeError("cannot read this")
        return model(features)

    fragile.device = model.device  # type: ignore[attr-defined]
    batching._model = fragile
    front = Fronts(loaded).able(Ability.EMBED)
    requests = [
        EmbedRequest(inputs=[text], prompt_name="query") for text in ("train", "soup", "rice", "nine")
    ]
    answers: list[Any] = await asyncio.gather(
        *(front.embed(request) for request in requests), return_exceptions=True
    )
    assert isinstance(answers.pop(1), EngineError)
    for text, answer in zip(("train", "rice", "nine"), answers, strict=True):
        expected = library.encode([text], prompt_name="query")
        assert np.abs(np.asarray(answer.vectors) - expected).max() < 1e-4
