"""Rerankers of both kinds, with random weights: the scores are the library's, however they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ekiben.contract import LoadFailed, RerankRequest
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.embedding.rerank import ROUTES
from tests.replica_routes import client, load_folder
from tests.tiny_encoders import classifier_folder, colbert_folder

SPEC = ModelSpec(
    name="judge",
    family=Family.EMBEDDING,
    abilities=frozenset({Ability.RERANK}),
    variants=(
        Variant(format="safetensors", source=SourceSpec(kind="local"), engine="sentence_transformers"),
    ),
)
QUERY = "when does the train go?"
DOCUMENTS = [
    "departures at nine.",
    "boil the rice for ten minutes",
    "the train leaves from platform three, " * 9,
    "soup",
    "what time is lunch, the lunch box is at the station",
]


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("judge"), labels=("relevance",))


@pytest.fixture(scope="module")
def matcher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colbert_folder(tmp_path_factory.mktemp("matcher"))


@pytest.fixture(scope="module")
def judge_library(judge_folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(judge_folder), device="cpu")


@pytest.fixture(scope="module")
def matcher_library(matcher_folder: Path) -> Any:
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(matcher_folder), device="cpu")


@pytest.fixture
async def judge(judge_folder: Path, tmp_path: Path) -> AsyncIterator[Any]:
    loaded = await load_folder(SPEC, judge_folder, tmp_path)
    yield Fronts(loaded).able(Ability.RERANK)
    await loaded.unload()


@pytest.fixture(params=["judge", "matcher"])
async def front(
    request: pytest.FixtureRequest, judge_folder: Path, matcher_folder: Path, tmp_path: Path
) -> AsyncIterator[Any]:
    folder = judge_folder if request.param == "judge" else matcher_folder
    loaded = await load_folder(SPEC, folder, tmp_path, batch_size=3)
    yield Fronts(loaded).able(Ability.RERANK)
    await loaded.unload()


async def scores(front: Any, query: str, documents: list[str], **fields: Any) -> Any:
    answer = await front.rerank(RerankRequest(query=query, documents=documents, **fields))
    return np.array(answer.scores)


async def test_a_pair_read_together_scores_as_in_the_library(judge: Any, judge_library: Any) -> None:
    expected = judge_library.predict([(QUERY, document) for document in DOCUMENTS])
    assert np.ptp(expected) > 0.01, "a model that cannot tell texts apart shows nothing"
    answer = await judge.rerank(RerankRequest(query=QUERY, documents=DOCUMENTS))
    assert answer.scores == pytest.approx(expected, abs=1e-4)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    assert answer.prompt_tokens == int(judge_library.preprocess(pairs)["attention_mask"].sum())


async def test_a_match_of_tokens_scores_as_in_the_library(
    matcher_folder: Path, matcher_library: Any, tmp_path: Path
) -> None:
    query = matcher_library.encode_query([QUERY])
    documents = matcher_library.encode_document(DOCUMENTS)
    expected = matcher_library.similarity(query, documents)[0].numpy()
    assert np.ptp(expected) > 0.01
    loaded = await load_folder(SPEC, matcher_folder, tmp_path)
    found = await scores(Fronts(loaded).able(Ability.RERANK), QUERY, DOCUMENTS)
    await loaded.unload()
    assert found == pytest.approx(expected, abs=1e-4)


async def test_requests_at_once_keep_their_own(front: Any) -> None:
    queries = [QUERY, "rice", "what is at the station?"] * 3
    alone = [await scores(front, query, DOCUMENTS) for query in queries[:3]]
    together = await asyncio.gather(*(scores(front, query, DOCUMENTS) for query in queries))
    for index, found in enumerate(together):
        assert found == pytest.approx(alone[index % 3], abs=1e-4)


async def test_of_long_documents_the_beginning_counts(front: Any) -> None:
    cut = await scores(front, QUERY, [*DOCUMENTS], max_tokens_per_document=3)
    short = ["departures at nine", "boil the rice", "the train leaves", "soup", "what time is"]
    assert cut == pytest.approx(await scores(front, QUERY, short), abs=1e-4)


async def test_through_the_route(judge_folder: Path, judge_library: Any, tmp_path: Path) -> None:
    loaded = await load_folder(SPEC, judge_folder, tmp_path, dtype="int8")
    async with client(SPEC, loaded, ROUTES) as http:
        body = {"model": "judge", "query": QUERY, "documents": DOCUMENTS}
        answer = await http.post("/v1/rerank", json=body)
    await loaded.unload()
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["relevance_score"] for result in results] == sorted(
        (result["relevance_score"] for result in results), reverse=True
    )
    expected = judge_library.predict([(QUERY, document) for document in DOCUMENTS])
    found = {result["index"]: result["relevance_score"] for result in results}
    assert [found[index] for index in range(5)] == pytest.approx(expected, abs=0.2)


async def test_what_is_no_reranker_is_refused(tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "moods", labels=("glad", "sad", "cross"))
    with pytest.raises(LoadFailed, match="has 3 labels"):
        await load_folder(SPEC, folder, tmp_path)
    both = SPEC.model_copy(update={"abilities": frozenset({Ability.RERANK, Ability.EMBED})})
    with pytest.raises(LoadFailed, match="can do one thing"):
        await load_folder(both, folder, tmp_path)
