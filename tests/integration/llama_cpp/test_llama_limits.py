"""What the llama_cpp engine refuses, and that it harms nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import EngineError, InvalidRequest, UnsupportedParameter
from ekiben_llama_cpp.model import LlamaModel
from tests.integration.llama_lab import FRUITS, MODEL, Weights, chat, complete, loaded, whole_chat

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_does_not_fit_the_context_is_refused(model: LlamaModel, stream: bool) -> None:
    long = [{"role": "user", "content": "word " * 1500}]
    with pytest.raises(InvalidRequest, match="1024") as caught:
        [item async for item in chat(model, messages=long, stream=stream)]
    assert caught.value.error_code == "context_length_exceeded"
    assert caught.value.param == "messages"
    with pytest.raises(InvalidRequest) as caught:
        [item async for item in complete(model, prompt="word " * 1500, stream=stream)]
    assert caught.value.param == "prompt"


async def test_the_context_of_each_request_is_its_own(weights: Weights, tmp_path: Path) -> None:
    """Two requests that fill theirs at the same time both end well."""
    path = await asyncio.to_thread(weights, MODEL)
    prompt = [{"role": "user", "content": "go " * 150}]
    async with loaded(path, tmp_path, context=256, parallel=2) as model:
        answers = await asyncio.gather(
            *(whole_chat(model, messages=prompt, max_tokens=None, ignore_eos=True) for _ in range(2))
        )
    for answer in answers:
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.total_tokens in (255, 256)


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"web_search_options": {}}, UnsupportedParameter, "web_search_options"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"$ref": "#/no"}},
                }
            },
            InvalidRequest,
            None,
        ),
        ({"top_k": "many"}, InvalidRequest, "top_k"),
        ({"grammar": "root ::= " + "(" * 30_000}, UnsupportedParameter, "grammar"),
        ({"min_p": []}, InvalidRequest, "min_p"),
    ],
)
async def test_what_it_cannot_do_is_said_and_harms_nothing(
    model: LlamaModel, body: dict[str, Any], error: type[InvalidRequest], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        await whole_chat(model, messages=FRUITS, **body)
    if param is not None:
        assert caught.value.param == param
    assert (await whole_chat(model, messages=FRUITS, max_tokens=1)).choices


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "minItems": 10**6, "items": {"type": "array", "minItems": 10**6, "items": {}}},
        {"type": "string", "pattern": "^(((a{1,900}){1,900}){1,900})$"},
        {"type": "string", "pattern": "^(a?){200}a{200}$"},
        {"type": "string", "pattern": "(" * 5000 + ")" * 5000},
        {"enum": [f"x{number}y" for number in range(20_000)]},
        {"type": "object", "properties": {str(number): {"type": "string"} for number in range(5000)}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$ref": "http://127.0.0.1:1/schema"},
        {"enum": []},
        {"type": "wrong"},
    ],
    ids="length items repeats optional deep choices fields circle remote nothing unknown".split(),  # noqa: SIM905
)
async def test_hostile_schemas_are_survived(model: LlamaModel, schema: dict[str, Any]) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "bomb", "schema": schema}}
    async with asyncio.timeout(20):
        try:
            await whole_chat(model, messages=FRUITS, response_format=response_format, max_tokens=2)
        except (InvalidRequest, EngineError) as error:
            assert "\n" not in error.message
    assert (await whole_chat(model, messages=FRUITS, max_tokens=1)).choices
