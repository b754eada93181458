"""Embeddings and reranking with the llama_cpp engine, over models made by the test."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import (
    EmbedRequest,
    InvalidRequest,
    LoadFailed,
    LoadRequest,
    ModelSpec,
    RerankRequest,
    TokenizeRequest,
    TooManyTokens,
    UnsupportedParameter,
)
from ekiben.contract.testing import check_engine, load_request
from ekiben.plugins.discovery import discover
from ekiben_llama_cpp.engine import LlamaCpp
from ekiben_llama_cpp.vectors import EmbeddingModel, RerankModel
from tests import tiny_gguf

TEXTS = ["the cat sat on the mat", "fish swim in water", "a bird in the sky", "the dog"]


def order(path: Path, scratch: Path, *abilities: str, **options: Any) -> LoadRequest:
    section = discover().engines()["llama_cpp"].manifest.engine
    assert section is not None
    variant = {"format": "gguf", "engine": "llama_cpp", "source": {"kind": "local"}}
    spec = ModelSpec.model_validate(
        {"name": "m", "family": "embedding", "abilities": abilities or ["embed"], "variants": [variant]}
    )
    chosen = section.defaults() | options
    return load_request(spec, path, scratch=scratch, threads=1, options=chosen)


@asynccontextmanager
async def loaded(request: LoadRequest) -> AsyncIterator[Any]:
    model = await LlamaCpp().load(request)
    try:
        yield model
    finally:
        await model.unload()


async def embedded(model: EmbeddingModel, *inputs: str | list[int]) -> list[list[float]]:
    rows: Any = (await model.embed(EmbedRequest(inputs=inputs))).vectors.tolist()
    vectors: list[list[float]] = rows
    return vectors


def alike(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.hypot(*one) / math.hypot(*other)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    tiny_gguf.embedding_model(folder / "bert.gguf")
    tiny_gguf.embedding_model(folder / "rank.gguf", pooling="rank")
    tiny_gguf.llama_model(folder / "causal.gguf")
    return folder


async def test_the_contract_is_kept(files: Path, tmp_path: Path) -> None:
    """With a model whose tokens are bytes: the few words of the others cannot spell what the suite says."""
    await check_engine(LlamaCpp(), order(files / "causal.gguf", tmp_path))


async def test_a_text_has_the_same_vector_alone_and_in_company(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "bert.gguf", tmp_path)) as model:
        together = await embedded(model, *(TEXTS * 12))
        assert len(together) == 48
        assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in together)
        for text, vector in zip(TEXTS, together[4:8], strict=True):
            (alone,) = await embedded(model, text)
            assert alike(alone, vector) > 0.99999
        assert alike(together[0], together[1]) < 0.99


async def test_tokens_are_as_good_as_their_text(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "bert.gguf", tmp_path)) as model:
        tokens = await model.tokenize(TokenizeRequest(text=TEXTS[0]))
        text, listed = await embedded(model, TEXTS[0], list(tokens.ids))
        assert alike(text, listed) > 0.99999
        answer = await model.embed(EmbedRequest(inputs=[TEXTS[0], TEXTS[3]]))
        assert answer.prompt_tokens == 8 + 4
        assert answer.vectors.shape == (2, tiny_gguf.WIDTH)
        assert answer.vectors.format == "f"
        with pytest.raises(InvalidRequest, match="invalid tokens"):
            await embedded(model, [10**6])
        with pytest.raises(InvalidRequest, match="no chat template"):
            await model.tokenize(TokenizeRequest(messages=[{"role": "user", "content": "hi"}]))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
async def test_pooling_and_length_can_be_chosen(files: Path, tmp_path: Path, pooling: str) -> None:
    async with loaded(order(files / "bert.gguf", tmp_path)) as model:
        (usual,) = await embedded(model, TEXTS[0])
    async with loaded(order(files / "bert.gguf", tmp_path, pooling=pooling, normalize=False)) as model:
        (other,) = await embedded(model, TEXTS[0])
    assert (alike(usual, other) > 0.9999) is (pooling == "mean")
    assert not math.isclose(math.hypot(*other), 1, abs_tol=1e-3)


async def test_a_language_model_can_embed_too(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "causal.gguf", tmp_path, parallel=2)) as model:
        vectors = await embedded(model, *TEXTS)
        (alone,) = await embedded(model, TEXTS[2])
    assert alike(vectors[2], alone) > 0.9999


async def test_what_cannot_be_embedded_is_refused(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "bert.gguf", tmp_path, context=64)) as model:
        with pytest.raises(InvalidRequest, match="64 of the model's context") as caught:
            await embedded(model, "the cat", "cat " * 100)
        assert caught.value.error_code == "context_length_exceeded"
        assert caught.value.param == "input"
        with pytest.raises(UnsupportedParameter, match="dimensions"):
            await model.embed(EmbedRequest(inputs=["the cat"], dimensions=8))
        assert len(await embedded(model, "cat " * 62)) == 1, "the longest input that fits"


@pytest.mark.parametrize("inputs", [[[5] * 60_001] * 5, ["cat " * 37_500] * 9])
async def test_more_tokens_than_a_request_may_have(files: Path, tmp_path: Path, inputs: list[Any]) -> None:
    async with loaded(order(files / "bert.gguf", tmp_path, context=64)) as model:
        with pytest.raises(TooManyTokens, match="300000"):
            await embedded(model, *inputs)
        with pytest.raises(InvalidRequest, match="64 of the model's context"):
            await embedded(model, *inputs[:4])


async def test_giving_up_leaves_room_for_others(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "causal.gguf", tmp_path, parallel=2, context=1024)) as model:
        waiting = asyncio.create_task(model.embed(EmbedRequest(inputs=["the cat sat " * 80] * 300)))
        while not any(slot["is_processing"] for slot in await model._client.slots()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(5):
            assert len(await embedded(model, "the cat")) == 1


async def test_documents_are_judged_in_the_order_they_came(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "rank.gguf", tmp_path, "rerank", parallel=4)) as model:
        assert isinstance(model, RerankModel)
        documents = [*TEXTS, "water", "mat", "bird"]
        together = await model.rerank(RerankRequest(query="the cat", documents=documents))
        assert len(together.scores) == 7
        assert all(0 < score < 1 for score in together.scores)
        assert len({round(score, 6) for score in together.scores}) == 7
        (alone,) = (await model.rerank(RerankRequest(query="the cat", documents=["water"]))).scores
        assert math.isclose(alone, together.scores[4], abs_tol=1e-4)


async def test_long_documents_are_cut(files: Path, tmp_path: Path) -> None:
    async with loaded(order(files / "rank.gguf", tmp_path, "rerank", context=64)) as model:
        long = await model.rerank(RerankRequest(query="the cat", documents=["dog " * 500]))
        assert 0 < long.prompt_tokens <= 64
        request = RerankRequest(query="cat", documents=["dog " * 500, "dog"], max_tokens_per_document=1)
        cut, short = (await model.rerank(request)).scores
        assert math.isclose(cut, short, abs_tol=1e-5)
        with pytest.raises(InvalidRequest, match="query") as caught:
            await model.rerank(RerankRequest(query="cat " * 100, documents=["dog"]))
        assert caught.value.param == "query"


@pytest.mark.parametrize(
    ("file", "abilities", "options", "reason"),
    [
        ("rank.gguf", ["embed"], {}, "the ability 'rerank'"),
        ("rank.gguf", ["rerank"], {"pooling": "mean"}, "has the pooling 'rank'"),
        ("bert.gguf", ["embed", "rerank"], {}, "one of the two"),
    ],
)
async def test_what_does_not_fit_together_is_refused(
    files: Path, tmp_path: Path, file: str, abilities: list[str], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LoadFailed, match=reason):
        await LlamaCpp().load(order(files / file, tmp_path, *abilities, **options))
