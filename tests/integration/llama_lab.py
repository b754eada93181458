"""What the tests of the llama_cpp engine share: loading models, asking them, and reading their answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from openai.types import Completion
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
)
from pydantic import BaseModel

from ekiben.catalog.specs import resolve_model
from ekiben.contract import LoadRequest, TextRequest
from ekiben.contract.testing import load_request
from ekiben.plugins.discovery import discover
from ekiben_llama_cpp.engine import LlamaCpp
from ekiben_llama_cpp.model import LlamaModel

MODEL = "smollm2-135m-instruct"
FRUITS = [{"role": "user", "content": "Name three fruits."}]
STORY = [{"role": "user", "content": "Tell me a very long story."}]

Weights = Callable[[str], Path]


def load_order(weights: Path, scratch: Path, **options: Any) -> LoadRequest:
    plugins = discover()
    section = plugins.engines()["llama_cpp"].manifest.engine
    assert section is not None
    small = {"context": 1024, "parallel": 2}
    return load_request(
        resolve_model(MODEL, plugins=plugins),
        weights,
        scratch=scratch,
        threads=1,  # two that wait for each other are slow where tests run side by side
        options=section.defaults() | small | options,
    )


@asynccontextmanager
async def loaded(weights: Path, scratch: Path, **options: Any) -> AsyncIterator[LlamaModel]:
    model = await LlamaCpp().load(load_order(weights, scratch, **options))
    assert isinstance(model, LlamaModel)
    try:
        yield model
    finally:
        await model.unload()


def asked(body: dict[str, Any]) -> TextRequest:
    stream = bool(body.get("stream"))
    return TextRequest(body={"model": MODEL} | body, raw=b"", stream=stream, model=MODEL, request_id="r")


def chat(model: LlamaModel, **body: Any) -> AsyncGenerator[bytes, None]:
    return model.chat(asked({"temperature": 0, "max_tokens": 24} | body))


def complete(model: LlamaModel, **body: Any) -> AsyncGenerator[bytes, None]:
    return model.complete(asked({"temperature": 0} | body))


def parsed(shape: type[Any], raw: bytes) -> Any:
    """The object, if it is what OpenAI's own type says, and nothing besides."""
    value = shape.model_validate_json(raw, strict=True)
    assert_nothing_besides(value)
    return value


def assert_nothing_besides(value: object) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{type(value).__name__} has {value.model_extra}"
        for _, item in value:
            assert_nothing_besides(item)
    elif isinstance(value, list):
        for item in value:
            assert_nothing_besides(item)


async def whole_chat(model: LlamaModel, **body: Any) -> ChatCompletion:
    (raw,) = [item async for item in chat(model, **body)]
    answer: ChatCompletion = parsed(ChatCompletion, raw)
    assert answer.model == MODEL
    return answer


async def chunks_of_chat(model: LlamaModel, **body: Any) -> list[ChatCompletionChunk]:
    chunks = [parsed(ChatCompletionChunk, item) async for item in chat(model, stream=True, **body)]
    assert len({(chunk.id, chunk.model) for chunk in chunks}) == 1
    return chunks


async def whole_completion(model: LlamaModel, **body: Any) -> Completion:
    (raw,) = [item async for item in complete(model, **body)]
    answer: Completion = parsed(Completion, raw)
    return answer


async def chunks_of_completion(model: LlamaModel, **body: Any) -> list[dict[str, Any]]:
    """As objects: OpenAI's type has no place for the null that its API sends while a text goes on."""
    chunks = [json.loads(item) async for item in complete(model, stream=True, **body)]
    for chunk in chunks:
        for choice in chunk["choices"]:
            finished = choice | {"finish_reason": choice["finish_reason"] or "stop"}
            parsed(Completion, json.dumps(chunk | {"choices": [finished]}).encode())
    return chunks


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def calls_of(answer: ChatCompletion) -> list[ChatCompletionMessageFunctionToolCall]:
    calls = answer.choices[0].message.tool_calls or []
    functions = [call for call in calls if isinstance(call, ChatCompletionMessageFunctionToolCall)]
    assert len(functions) == len(calls)
    return functions


async def tokens_of(model: LlamaModel, text: str) -> list[int]:
    answer = await model._client._answer("POST", "/tokenize", {"content": text})
    tokens: list[int] = answer["tokens"]
    return tokens


async def busy_slots(model: LlamaModel) -> int:
    return sum(slot["is_processing"] for slot in await model._client.slots())


async def until_busy(model: LlamaModel, count: int) -> None:
    while await busy_slots(model) != count:  # noqa: ASYNC110 - the slots are llama.cpp's
        await asyncio.sleep(0.01)
