"""What the rerank routes take and give, whatever engine is behind them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ekiben.contract.abilities import Rerankings, RerankRequest
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.runtime.embedding import rerank
from tests.replica_routes import client

MODEL = ModelSpec(
    name="judge",
    family=Family.EMBEDDING,
    abilities=frozenset({Ability.RERANK}),
    variants=(
        Variant(
            format="gguf",
            source=SourceSpec(kind="local"),
            engine="parrot",
            adapters={"strict": SourceSpec(kind="local")},
        ),
    ),
)
QUERY = {"model": MODEL.name, "query": "fruit", "documents": ["a nut", "a ripe banana", "an apple"]}


class Lengths:
    """The longer, the better."""

    def __init__(self) -> None:
        self.requests: list[RerankRequest] = []

    async def rerank(self, request: RerankRequest) -> Rerankings:
        self.requests.append(request)
        return Rerankings(scores=[len(document) / 10 for document in request.documents], prompt_tokens=9)

    async def unload(self) -> None:
        pass


async def post(body: object, path: str = "/v1/rerank") -> tuple[int, Any, Lengths]:
    engine = Lengths()
    async with client(MODEL, engine, rerank.ROUTES) as http:
        answer = await http.post(
            path, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
        )
    return answer.status_code, answer.json(), engine


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_the_most_relevant_comes_first_with_its_text(path: str) -> None:
    status, answer, engine = await post(QUERY, path)
    assert status == 200
    assert answer.pop("id").startswith("rerank-")
    assert answer == {
        "model": "judge",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
        "results": [
            {"index": 1, "document": {"text": "a ripe banana"}, "relevance_score": 1.3},
            {"index": 2, "document": {"text": "an apple"}, "relevance_score": 0.8},
            {"index": 0, "document": {"text": "a nut"}, "relevance_score": 0.5},
        ],
    }
    assert engine.requests == [RerankRequest(query="fruit", documents=QUERY["documents"])]


async def test_the_second_version_gives_documents_back_only_when_asked() -> None:
    _, answer, _ = await post(QUERY, "/v2/rerank")
    assert [set(result) for result in answer["results"]] == [{"index", "relevance_score"}] * 3
    _, answer, _ = await post(QUERY | {"return_documents": True}, "/v2/rerank")
    assert answer["results"][0]["document"] == {"text": "a ripe banana"}


async def test_documents_may_be_objects_and_be_cut() -> None:
    documents = [{"text": "one"}, "three"]
    asked = {"documents": documents, "top_n": 1, "return_documents": False, "max_tokens_per_doc": 7}
    status, answer, engine = await post(QUERY | asked)
    assert (status, answer["results"]) == (200, [{"index": 1, "relevance_score": 0.5}])
    assert engine.requests[0].documents == ["one", "three"]
    assert engine.requests[0].max_tokens_per_document == 7


async def test_equals_keep_their_order() -> None:
    _, answer, _ = await post(QUERY | {"documents": ["aa", "bb", "cc"]})
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": ["a"]}, "query"),
        ({"query": "a" * (rerank.MAX_CHARACTERS + 1)}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "a text"}, "documents"),
        ({"documents": ["a"] * (rerank.MAX_DOCUMENTS + 1)}, "documents"),
        ({"documents": ["a", 7]}, "documents.1"),
        ({"documents": ["a", ""]}, "documents.1"),
        ({"documents": ["half a pair: \ud83d"]}, "documents.0"),
        ({"documents": [{"text": 1}]}, "documents.0.text"),
        ({"documents": [{}]}, "documents.0.text"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents.0.title"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"rank_fields": ["text"]}, "rank_fields"),
        ({"model": "judge:strict"}, "model"),
    ],
)
async def test_what_is_wrong_is_named(wrong: dict[str, Any], param: str) -> None:
    status, answer, engine = await post(QUERY | wrong)
    error = answer["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert not engine.requests


async def test_an_engine_that_forgets_documents_is_an_engine_s_failure() -> None:
    class Lazy(Lengths):
        async def rerank(self, request: RerankRequest) -> Rerankings:
            return Rerankings(scores=[1.0], prompt_tokens=1)

    async with client(MODEL, Lazy(), rerank.ROUTES) as http:
        answer = await http.post("/v1/rerank", json=QUERY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_error")
