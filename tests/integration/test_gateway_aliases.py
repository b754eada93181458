"""Aliases and adapters at the gateway: who is asked, what the replica is told, and what is listed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types import Model

from ekiben.contract.model import ModelSpec
from tests.integration.gateway_lab import CHAT, Lab, Response, running_lab

GPT = "gpt-4o-mini"
TUNED = ModelSpec.model_validate(
    {
        "name": "tuned",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [
            {
                "format": "safetensors",
                "engine": "vllm",
                "source": {"kind": "local", "path": "/x.gguf"},
                "adapters": {"tiny": {"kind": "local", "path": "/tiny.gguf"}},
            }
        ],
    }
)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        catalog = lab.fleet.catalog
        catalog.add(TUNED)
        try:
            yield lab
        finally:
            for alias in catalog.aliases():
                catalog.remove_alias(alias.name)
            catalog.remove(TUNED.name)


async def put(lab: Lab, name: str, body: object) -> Response:
    return await lab.ask("PUT", f"/api/aliases/{name}", json.dumps(body).encode())


async def models(lab: Lab) -> dict[str, dict[str, Any]]:
    data = (await lab.ask("GET", "/v1/models")).json()["data"]
    for model in data:
        Model.model_validate(model, strict=True)
    listed = {model["id"]: model for model in data}
    assert len(listed) == len(data)
    return listed


async def test_an_alias_is_set_listed_asked_and_removed(lab: Lab) -> None:
    response = await put(lab, GPT, {"model": CHAT})
    assert (response.status, response.json()["model"]) == (200, CHAT)
    assert [a["name"] for a in (await lab.ask("GET", "/api/aliases")).json()["aliases"]] == [GPT]
    assert (await models(lab))[GPT]["alias_of"] == CHAT
    one = (await lab.ask("GET", f"/v1/models/{GPT}")).json()
    assert (one["id"], one["alias_of"], one["state"]) == (GPT, CHAT, "ready")
    assert (await lab.chat(model=GPT)).status == 200
    seen = lab.replica.seen[0]
    assert seen.headers["x-ekiben-model"] == CHAT
    assert json.loads(seen.body)["model"] == GPT  # bytes are passed as they came
    assert (await lab.ask("DELETE", f"/api/aliases/{GPT}")).status == 200
    assert (await lab.chat(model=GPT)).error()["code"] == "model_not_found"
    assert (await lab.ask("DELETE", f"/api/aliases/{GPT}")).error()["code"] == "not_found"


async def test_clients_cannot_say_what_a_name_stands_for(lab: Lab) -> None:
    await lab.chat(headers={"x-ekiben-model": "tuned"})
    assert "x-ekiben-model" not in lab.replica.seen[0].headers


async def test_adapters_are_models_with_a_parent(lab: Lab) -> None:
    listed = await models(lab)
    assert listed["tuned:tiny"]["parent"] == "tuned"
    assert "parent" not in listed["tuned"]
    one = (await lab.ask("GET", "/v1/models/tuned:tiny")).json()
    assert (one["id"], one["parent"]) == ("tuned:tiny", "tuned")
    assert (await lab.chat(model="tuned:tiny")).status == 200
    await put(lab, "fine/tuned", {"model": "tuned:tiny"})
    assert (await lab.chat(model="fine/tuned")).status == 200
    told = [seen.headers.get("x-ekiben-model") for seen in lab.replica.seen]
    assert told == [None, "tuned:tiny"]


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        (GPT, {}, 400, None),
        (GPT, {"model": 7}, 400, None),
        (GPT, {"model": CHAT, "more": 1}, 400, None),
        (GPT, [], 400, None),
        (GPT, {"model": "no-such"}, 404, "model_not_found"),
        ("a%20b", {"model": CHAT}, 400, "configuration_error"),
        ("tuned", {"model": CHAT}, 409, "conflict"),
        ("tuned:tiny", {"model": CHAT}, 409, "conflict"),
    ],
)
async def test_what_cannot_be_is_refused(
    lab: Lab, name: str, body: object, status: int, code: str | None
) -> None:
    response = await put(lab, name, body)
    assert (response.status, response.error()["code"]) == (status, code)
    assert (await lab.ask("GET", "/api/aliases")).json() == {"aliases": []}


async def test_an_alias_is_not_removed_as_a_model(lab: Lab) -> None:
    await put(lab, GPT, {"model": "tuned"})
    response = await lab.ask("DELETE", f"/api/models/{GPT}")
    assert (response.status, response.error()["code"]) == (409, "conflict")
    assert "tuned" in await models(lab)
