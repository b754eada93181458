"""What the tokenizer's routes take and give, whatever engine is behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ekiben.contract.abilities import TokenizeRequest, Tokens
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.errors import InvalidRequest
from ekiben.runtime.text import tokens
from tests.replica_routes import client

MODEL = ModelSpec(
    name="parrot",
    family=Family.LLM,
    abilities=frozenset({Ability.CHAT}),
    variants=(
        Variant(
            format="gguf",
            source=SourceSpec(kind="local"),
            engine="parrot",
            adapters={"loud": SourceSpec(kind="local")},
        ),
    ),
)
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "fly", "parameters": {"type": "object", "properties": {}}}}


class Letters:
    """A token for each character."""

    max_model_tokens = 64

    def __init__(self) -> None:
        self.asked: TokenizeRequest | None = None

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        self.asked = request
        text = json.dumps(request.messages) if request.text is None else request.text
        return Tokens(ids=[ord(letter) for letter in text], texts=list(text))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        if max(tokens, default=0) > 0x10FFFF:
            raise InvalidRequest("there is no such token", param="tokens")
        return "".join(map(chr, tokens))

    async def unload(self) -> None:
        pass


class Mute:
    async def unload(self) -> None:
        pass


async def post(path: str, body: object, engine: Any) -> tuple[int, Any]:
    async with client(MODEL, engine, tokens.ROUTES) as http:
        answer = await http.post(
            path, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
        )
    return answer.status_code, answer.json()


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
async def test_a_text(path: str) -> None:
    engine = Letters()
    status, answer = await post(path, {"model": "parrot", "prompt": "ab"}, engine)
    assert (status, answer) == (
        200,
        {"count": 2, "max_model_len": 64, "tokens": [97, 98], "token_strs": None},
    )
    assert engine.asked == TokenizeRequest(text="ab")


async def test_the_texts_of_tokens_and_no_special_ones() -> None:
    engine = Letters()
    body = {"model": "parrot:loud", "prompt": "ab", "return_token_strs": True, "add_special_tokens": False}
    status, answer = await post("/tokenize", body, engine)
    assert (status, answer["token_strs"]) == (200, ["a", "b"])
    assert engine.asked == TokenizeRequest(text="ab", add_special_tokens=False, adapter="loud")


async def test_a_conversation_with_tools() -> None:
    engine = Letters()
    body = {"model": "parrot", "messages": [USER], "tools": [TOOL], "add_generation_prompt": False}
    status, _ = await post("/tokenize", body | {"continue_final_message": False}, engine)
    assert status == 200
    assert engine.asked == TokenizeRequest(messages=[USER], tools=[TOOL], add_generation_prompt=False)


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
async def test_and_back(path: str) -> None:
    assert await post(path, {"model": "parrot", "tokens": [97, 98]}, Letters()) == (200, {"prompt": "ab"})
    assert await post(path, {"model": "parrot", "tokens": []}, Letters()) == (200, {"prompt": ""})


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [USER]}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "\ud83d"}, "prompt"),
        ({"prompt": "a" * (tokens.MAX_CHARACTERS + 1)}, "prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ({"prompt": "a", "return_token_strs": "no"}, "return_token_strs"),
        ({"prompt": "a", "words": True}, "words"),
        ({"prompt": "a", "chat_template": "{{ x }}"}, "chat_template"),
        ({"messages": [USER], "add_special_tokens": True}, "add_special_tokens"),
        ({"messages": [USER], "chat_template": "{{ x }}"}, "chat_template"),
        ({"messages": [USER], "continue_final_message": True}, "continue_final_message"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "bird", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "tools.0.function"),
    ],
)
async def test_what_is_wrong_is_named(wrong: dict[str, Any], param: str) -> None:
    engine = Letters()
    status, answer = await post("/tokenize", {"model": "parrot"} | wrong, engine)
    assert (status, answer["error"]["param"]) == (400, param)
    assert engine.asked is None


@pytest.mark.parametrize(
    "wrong", [None, "ab", [1.5], [True], [-1], [2**31], ["a"], [0x110000], [1] * (tokens.MAX_TOKENS + 1)]
)
async def test_wrong_tokens_are_named(wrong: object) -> None:
    status, answer = await post("/detokenize", {"model": "parrot", "tokens": wrong}, Letters())
    assert (status, answer["error"]["param"]) == (400, "tokens")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_engines_that_do_not_show_their_tokenizer(path: str) -> None:
    status, answer = await post(path, {"model": "parrot", "prompt": "a", "tokens": [1]}, Mute())
    assert (status, answer["error"]["param"]) == (400, "model")
    assert "tokenizer" in answer["error"]["message"]
