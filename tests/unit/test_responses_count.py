"""How long a request for a response is: what the tokenizer is asked, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ekiben.contract.abilities import TokenizeRequest, Tokens
from ekiben.runtime.text.responses.routes import ROUTES
from tests.replica_routes import client
from tests.unit.responses_in_hand import SPEC, Scripted

PATH = "/v1/responses/input_tokens"


class Counting(Scripted):
    """Three tokens, whatever it is shown."""

    max_model_tokens = 64

    def __init__(self) -> None:
        super().__init__()
        self.shown: TokenizeRequest | None = None

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        self.shown = request
        return Tokens(ids=[1, 2, 3], texts=["a", "b", "c"])

    async def detokenize(self, tokens: Any) -> str:
        return ""


async def count(engine: Scripted, **body: Any) -> Any:
    async with client(SPEC, engine, ROUTES) as http:
        return await http.post(PATH, json={"model": "parrot", "input": "hi"} | body)


async def test_the_model_is_shown_what_it_would_read() -> None:
    engine = Counting()
    tools = [{"type": "function", "name": "add", "parameters": {}}]
    answer = await count(engine, instructions="be good", tools=tools)
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": 3}
    assert engine.shown is not None
    assert engine.shown.messages is not None
    assert [message["role"] for message in engine.shown.messages] == ["system", "user"]
    assert engine.shown.tools[0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 1}, "temperature"),
        ({"personality": "friendly"}, "personality"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": 5}, "input"),
    ],
)
async def test_what_cannot_be_counted_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    answer = await count(Counting(), **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_an_engine_that_hides_its_tokenizer_cannot_count() -> None:
    answer = await count(Scripted())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
