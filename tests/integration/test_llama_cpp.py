"""The llama_cpp engine over a real model: answers, limits, cancelling, broken files."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from openai.types import Completion
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
)
from pydantic import BaseModel

from ekiben.catalog.specs import resolve_model
from ekiben.contract import (
    EngineError,
    InvalidRequest,
    LoadFailed,
    LoadRequest,
    TextRequest,
    UnsupportedParameter,
)
from ekiben.contract.testing import load_request
from ekiben.plugins.discovery import discover
from ekiben_llama_cpp.engine import LlamaCpp
from ekiben_llama_cpp.model import LlamaModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "smollm2-135m-instruct"
FRUITS = [{"role": "user", "content": "Name three fruits."}]
STORY = [{"role": "user", "content": "Tell me a very long story."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "set_clock",
        "parameters": {
            "type": "object",
            "properties": {"hour": {"$ref": "#/$defs/hour"}},
            "required": ["hour"],
            "additionalProperties": False,
            "$defs": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
        },
    },
}

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
    try:
        yield model
    finally:
        await model.unload()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaModel]:
    path = await asyncio.to_thread(weights, MODEL)
    async with loaded(path, tmp_path_factory.mktemp("llama")) as model:
        yield model


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


async def test_a_chat_is_answered(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS)
    content = answer.choices[0].message.content
    assert content is not None
    assert all(fruit in content for fruit in ("Bananas", "Oranges", "Grapes"))
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_says_the_same_in_pieces(model: LlamaModel) -> None:
    chunks = await chunks_of_chat(model, messages=FRUITS)
    assert text_of(chunks) == (await whole_chat(model, messages=FRUITS)).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 5


async def test_usage_comes_in_a_chunk_of_its_own_when_it_is_asked_for(model: LlamaModel) -> None:
    raw = [
        json.loads(item)
        async for item in chat(
            model, messages=FRUITS, stream=True, stream_options={"include_usage": True}, n=2
        )
    ]
    assert raw[-1]["choices"] == []
    assert raw[-1]["usage"]["completion_tokens"] == 2 * 15
    assert raw[-1]["usage"]["prompt_tokens"] == 34
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in raw[:-1])


async def test_several_answers_are_numbered_and_counted(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, n=3, temperature=1.5, seed=1, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 8
    chunks = await chunks_of_chat(model, messages=FRUITS, n=3, max_tokens=4)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}


async def test_the_limit_of_tokens_is_kept(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, max_tokens=None, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_stop_ends_the_text_before_it(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, stop=["Oranges"])
    assert answer.choices[0].message.content == "1. Bananas\n2. "
    assert answer.choices[0].finish_reason == "stop"


async def test_a_seed_makes_chance_repeatable(model: LlamaModel) -> None:
    async def drawn(seed: int) -> str | None:
        answer = await whole_chat(model, messages=STORY, temperature=1.5, seed=seed)
        return answer.choices[0].message.content

    assert await drawn(11) == await drawn(11)
    assert await drawn(11) != await drawn(12)


async def test_a_token_can_be_forbidden(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, logit_bias={"33": -100})  # "1"
    assert not (answer.choices[0].message.content or "").startswith("1")


async def test_log_probabilities_have_openais_shape(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, logprobs=True, top_logprobs=3, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(item.token for item in logprobs.content) == answer.choices[0].message.content
    assert all(len(item.top_logprobs) == 3 and item.logprob <= 0 for item in logprobs.content)
    bare = await whole_chat(model, messages=FRUITS, logprobs=True, max_tokens=2)
    assert bare.choices[0].logprobs is not None
    assert [item.top_logprobs for item in bare.choices[0].logprobs.content or ()] == [[], []]
    chunks = await chunks_of_chat(model, messages=FRUITS, logprobs=True, top_logprobs=1, max_tokens=3)
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert sum(len(item.content or ()) for item in told) == 3


async def test_a_schema_is_kept(model: LlamaModel) -> None:
    schema = {
        "type": "object",
        "properties": {"fruit": {"enum": ["apple", "pear"]}, "count": {"type": "integer", "maximum": 99}},
        "required": ["fruit", "count"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    answer = await whole_chat(model, messages=FRUITS, response_format=response_format, max_tokens=60)
    order = json.loads(answer.choices[0].message.content or "")
    assert order["fruit"] in ("apple", "pear")
    assert isinstance(order["count"], int)


async def test_any_json_can_be_asked_for(model: LlamaModel) -> None:
    answer = await whole_chat(
        model, messages=FRUITS, response_format={"type": "json_object"}, max_tokens=3, stop="zzz"
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


@pytest.mark.parametrize("named", [True, False], ids=["named", "required"])
async def test_a_call_can_be_demanded(model: LlamaModel, named: bool) -> None:
    choice = {"type": "function", "function": {"name": "set_clock"}} if named else "required"
    demand = {"messages": FRUITS, "tools": [WEATHER, CLOCK], "tool_choice": choice, "max_tokens": 100}
    answer = await whole_chat(model, **demand)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    (call,) = calls_of(answer)
    arguments = json.loads(call.function.arguments)
    if call.function.name == "set_clock":
        assert arguments["hour"] in range(24)
    else:
        assert isinstance(arguments["city"], str)

    chunks = await chunks_of_chat(model, **demand)
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].id is not None
    assert deltas[0].function is not None
    assert deltas[0].function.name == call.function.name
    written = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(written) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert text_of(chunks) == ""


def asked_before(city: str) -> list[dict[str, Any]]:
    """A question, the call it led to, and the answer: what a small model needs as an example."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": city, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": city, "content": "sunny"},
        {"role": "assistant", "content": f"It is sunny in {city}."},
    ]


async def test_a_call_that_the_model_makes_by_itself_is_read(model: LlamaModel) -> None:
    examples = [message for city in ("Rome", "Paris", "Berlin") for message in asked_before(city)]
    messages = [*examples, {"role": "user", "content": "What is the weather in Oslo?"}]
    answer = await whole_chat(model, messages=messages, tools=[WEATHER], max_tokens=60)
    (made,) = calls_of(answer)
    assert made.function.name == "get_weather"
    assert json.loads(made.function.arguments) == {"city": "Oslo"}
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    chunks = await chunks_of_chat(model, messages=messages, tools=[WEATHER], max_tokens=60)
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    written = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(written) == {"city": "Oslo"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_completions_take_every_kind_of_prompt(model: LlamaModel) -> None:
    text = await whole_completion(model, prompt="Once upon a")
    assert text.usage is not None
    assert text.usage.completion_tokens == 16
    tokens = await tokens_of(model, "Once upon a")
    assert (await whole_completion(model, prompt=tokens)).choices[0].text == text.choices[0].text
    several = await whole_completion(model, prompt=[tokens, tokens], n=2, max_tokens=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.usage is not None
    assert several.usage.prompt_tokens == 2 * len(tokens)
    assert several.usage.completion_tokens == 8
    echoed = await whole_completion(model, prompt=["Once upon a", "The end"], echo=True, max_tokens=2)
    assert [choice.text[:7] for choice in echoed.choices] == ["Once up", "The end"]


async def test_streamed_completions_say_the_same(model: LlamaModel) -> None:
    whole = await whole_completion(model, prompt="Once upon a", max_tokens=6, logprobs=2, echo=False)
    chunks = await chunks_of_completion(
        model, prompt="Once upon a", max_tokens=6, logprobs=2, stream_options={"include_usage": True}
    )
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == whole.choices[0].text
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    offsets = [
        offset
        for chunk in chunks
        for choice in chunk["choices"]
        for offset in (choice["logprobs"] or {"text_offset": []})["text_offset"]
    ]
    assert whole.choices[0].logprobs is not None
    assert offsets == whole.choices[0].logprobs.text_offset
    bare = await chunks_of_completion(model, prompt=["a", "b"], max_tokens=2, echo=True)
    assert all("usage" not in chunk for chunk in bare)
    first: dict[int, str] = {}
    for chunk in bare:
        first.setdefault(chunk["choices"][0]["index"], chunk["choices"][0]["text"])
    assert (first[0][0], first[1][0]) == ("a", "b")


async def test_legacy_log_probabilities_add_up(model: LlamaModel) -> None:
    answer = await whole_completion(model, prompt="Once upon a", logprobs=2, max_tokens=5)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert [len(top) for top in logprobs.top_logprobs or ()] == [2] * 5
    assert (logprobs.text_offset or [])[0] == 0


async def test_the_best_of_several_is_the_likeliest(model: LlamaModel) -> None:
    def likelihood(answer: Completion) -> float:
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        return sum(logprobs.token_logprobs or ())

    drawn = [
        await whole_completion(
            model, prompt="Once upon a", temperature=2, max_tokens=4, seed=seed, logprobs=0
        )
        for seed in (5, 6, 7)
    ]
    best = await whole_completion(
        model, prompt="Once upon a", temperature=2, max_tokens=4, seed=5, best_of=3, logprobs=0
    )
    assert len(best.choices) == 1
    assert best.usage is not None
    assert best.usage.completion_tokens == 12
    assert likelihood(best) >= max(map(likelihood, drawn)) - 0.5


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


async def test_requests_run_together(model: LlamaModel) -> None:
    order: list[str] = []

    async def follow(name: str) -> None:
        async for _ in chat(model, messages=STORY, stream=True, max_tokens=24, ignore_eos=True):
            order.append(name)

    await asyncio.gather(follow("a"), follow("b"))
    switches = sum(before != after for before, after in pairwise(order))
    assert switches > 6, order


@pytest.mark.parametrize("n", [1, 2])
async def test_leaving_a_stream_frees_the_slots(model: LlamaModel, n: int) -> None:
    endless = chat(model, messages=STORY, stream=True, max_tokens=None, ignore_eos=True, n=n)
    async with aclosing(endless):
        await anext(endless)
        await until_busy(model, n)
    async with asyncio.timeout(1):
        await until_busy(model, 0)


@pytest.mark.parametrize("n", [1, 2])
async def test_giving_up_a_whole_answer_frees_the_slots(model: LlamaModel, n: int) -> None:
    waiting = asyncio.create_task(whole_chat(model, messages=STORY, max_tokens=None, ignore_eos=True, n=n))
    await until_busy(model, n)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await until_busy(model, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token_frees_the_slot(
    weights: Weights, tmp_path: Path, stream: bool
) -> None:
    path = await asyncio.to_thread(weights, MODEL)
    async with loaded(path, tmp_path, context=8192, parallel=1, batch=16) as model:
        prompt = [{"role": "user", "content": "word " * 6000}]

        async def first() -> bytes:
            async with aclosing(chat(model, messages=prompt, stream=stream)) as items:
                return await anext(items)

        waiting = asyncio.create_task(first())
        await until_busy(model, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1):
            await until_busy(model, 0)


async def test_those_that_wait_for_a_slot_can_leave_too(model: LlamaModel) -> None:
    tasks = [
        asyncio.create_task(whole_chat(model, messages=STORY, max_tokens=None, ignore_eos=True))
        for _ in range(10)
    ]
    await until_busy(model, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(1):
        await until_busy(model, 0)


async def test_the_estimate_is_near_what_is_taken(weights: Weights, tmp_path: Path) -> None:
    path = await asyncio.to_thread(weights, MODEL)
    options = {"context": 8192, "parallel": 4}
    estimate = LlamaCpp().estimate_memory(load_order(path, tmp_path, **options))
    assert estimate.weights_bytes == path.stat().st_size
    before = psutil.Process().memory_info().rss
    async with loaded(path, tmp_path, **options) as model:
        await whole_chat(model, messages=FRUITS, max_tokens=1)
        taken = psutil.Process().memory_info().rss - before
    assert 0.8 * taken < estimate.total_bytes < 1.3 * taken
    assert psutil.Process().memory_info().rss - before < 0.2 * taken, "unloading must give it back"


async def test_a_socket_far_down_the_tree_is_reached(weights: Weights, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    path = await asyncio.to_thread(weights, MODEL)
    async with loaded(path, deep, context=256, parallel=1) as model:
        assert (await whole_chat(model, messages=FRUITS, max_tokens=1)).choices


def truncated(good: Path, bad: Path) -> None:
    with good.open("rb") as source:
        bad.write_bytes(source.read(50_000_000))


def unknown_architecture(good: Path, bad: Path) -> None:
    shutil.copyfile(good, bad)
    with bad.open("r+b") as file:
        head = file.read(4096)
        at = head.index(b"general.architecture") + len(b"general.architecture") + 4 + 8
        assert head[at : at + 5] == b"llama"
        for place in [at, *range(4096)]:
            if head[place : place + 6] in (b"llama.",) or place == at:
                file.seek(place)
                file.write(b"lzzma")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _, bad: bad.write_bytes(b""), "not a GGUF file"),
        (lambda _, bad: bad.write_bytes(b"<html>not here</html>"), "not a GGUF file"),
        (lambda _, bad: bad.write_bytes(b"GGUF" + bytes(range(256)) * 40), "GGUF file"),
        (lambda _, bad: None, "cannot be read"),
        (lambda _, bad: bad.mkdir(), "cannot be read"),
        (truncated, "broken GGUF file"),
        (unknown_architecture, "unknown model architecture"),
    ],
    ids=["empty", "html", "garbage", "absent", "folder", "truncated", "architecture"],
)
async def test_broken_files_are_refused_in_a_sentence(
    weights: Weights, tmp_path: Path, spoil: Callable[[Path, Path], object], reason: str
) -> None:
    bad = tmp_path / "bad.gguf"
    spoil(await asyncio.to_thread(weights, MODEL), bad)
    with pytest.raises(LoadFailed, match=reason) as caught:
        await LlamaCpp().load(load_order(bad, tmp_path))
    assert "\n" not in caught.value.message
