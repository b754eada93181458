"""What `/v1/moderations` takes and gives, whatever engine is behind it."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from openai.types import ModerationCreateResponse
from openai.types.moderation import Categories
from openai.types.moderation_create_params import ModerationCreateParams

from ekiben.contract import Moderated, ModerateRequest, Moderation
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.errors import InvalidRequest
from ekiben.runtime.embedding import moderations
from tests.replica_routes import client

MODEL = ModelSpec(
    name="censor",
    family=Family.EMBEDDING,
    abilities=frozenset({Ability.MODERATE}),
    variants=(Variant(format="safetensors", source=SourceSpec(kind="local"), engine="parrot"),),
)


class Shouting:
    """Capital letters are violence, and an exclamation mark is a category of its own."""

    def __init__(self, *, forgets: int = 0) -> None:
        self.requests: list[ModerateRequest] = []
        self._forgets = forgets

    async def moderate(self, request: ModerateRequest) -> Moderation:
        self.requests.append(request)
        texts = [self._judge(text) for text in request.texts]
        return Moderation(texts=texts[self._forgets :], prompt_tokens=3)

    async def unload(self) -> None:
        pass

    def _judge(self, text: str) -> Moderated:
        loud = sum(map(str.isupper, text)) / len(text)
        return Moderated(
            scores={"violence": loud, "shouting": float("!" in text)},
            flagged=frozenset({"violence"} if loud > 0.5 else {"shouting"} if "!" in text else ()),
        )


async def post(body: object, engine: Shouting) -> tuple[int, Any]:
    async with client(MODEL, engine, moderations.ROUTES) as http:
        answer = await http.post("/v1/moderations", json=body)
    return answer.status_code, answer.json()


def test_fields_and_categories_are_those_of_the_openai_package() -> None:
    assert set(moderations._FIELDS) == set(get_type_hints(ModerationCreateParams))
    names = {field.alias or name for name, field in Categories.model_fields.items()}
    assert set(moderations.CATEGORIES) == names


async def test_every_category_is_there_for_every_text() -> None:
    status, body = await post({"model": "censor", "input": ["quiet", "LOUD!"]}, Shouting())
    assert status == 200
    answer = ModerationCreateResponse.model_validate(body, strict=True)
    assert (answer.id[:5], answer.model) == ("modr-", "censor")
    quiet, loud = answer.results
    assert (quiet.flagged, quiet.categories.violence, quiet.category_scores.violence) == (False, False, 0)
    assert (loud.flagged, loud.categories.violence, loud.category_scores.violence) == (True, True, 0.8)
    applied = body["results"][0]["category_applied_input_types"]
    assert (applied["violence"], applied["hate/threatening"]) == (["text"], [])
    for part in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(body["results"][1][part]) == moderations.CATEGORIES


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("a text", ["a text"]),
        (["one", "two"], ["one", "two"]),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], ["one\ntwo"]),
    ],
)
async def test_every_kind_of_input(given: object, seen: list[str]) -> None:
    engine = Shouting()
    status, body = await post({"model": "censor", "input": given}, engine)
    assert (status, len(body["results"])) == (200, len(seen))
    assert list(engine.requests[0].texts) == seen


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, "input.1"),
        ({"input": ["a", [5]]}, "input.1"),
        ({"input": [{"type": "text", "text": "a"}, "b"]}, "input.1"),
        ({"input": [{"type": "text"}]}, "input.0.text"),
        ({"input": [{"type": "text", "text": "a", "voice": 1}]}, "input.0.voice"),
        ({"input": [{"type": "video"}]}, "input.0.type"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "input.0"),
        ({"input": "a" * (moderations.MAX_CHARACTERS + 1)}, "input"),
        ({"input": ["a"] * (moderations.MAX_TEXTS + 1)}, "input"),
        ({"input": "a", "threshold": 1}, "threshold"),
    ],
)
async def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    engine = Shouting()
    status, body = await post({"model": "censor"} | fields, engine)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    assert body["error"]["param"] == param
    assert not engine.requests


async def test_a_category_of_the_model_alone_is_told_by_the_flag() -> None:
    _, body = await post({"model": "censor", "input": "quiet!"}, Shouting())
    result = body["results"][0]
    assert result["flagged"]
    assert not any(result["categories"].values())


async def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(InvalidRequest):
        moderations.parse_input("\ud800")


async def test_texts_that_the_engine_forgets_are_its_fault() -> None:
    status, body = await post({"model": "censor", "input": ["a", "b"]}, Shouting(forgets=1))
    assert (status, body["error"]["type"]) == (502, "server_error")
