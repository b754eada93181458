"""The transformers engine over a real model: what it writes, what it refuses, and who it lets go."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import AutoModelForCausalLM, AutoTokenizer

from ekiben.contract import InvalidRequest, LoadFailed, TokenizeRequest, UnsupportedParameter
from ekiben_transformers.engine import Transformers
from ekiben_transformers.model import TextModel
from tests.smollm2_folder import smollm2_folder
from tests.transformers_engine import asked, chat, complete, loaded, order

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRUITS = [{"role": "user", "content": "Name three fruits."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
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
            "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
            "required": ["hour"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def folder(weights_home: Path) -> Path:
    return smollm2_folder(weights_home)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TextModel]:
    """In float32, so that what is computed in a batch rounds as what is computed alone."""
    scratch = tmp_path_factory.mktemp("transformers")
    async with loaded(order(folder, scratch, dtype="float32")) as model:
        yield model


@pytest.fixture(scope="module")
def library(folder: Path) -> tuple[Any, Any]:
    """The library's own model and tokenizer."""
    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def generated(library: tuple[Any, Any], ids: list[int], count: int) -> str:
    model, tokenizer = library
    output = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
    )
    text: str = tokenizer.decode(output[0][len(ids) :], skip_special_tokens=True)
    return text


async def test_the_text_is_that_of_the_library(model: TextModel, library: tuple[Any, Any]) -> None:
    ids = library[1].apply_chat_template(FRUITS, add_generation_prompt=True)["input_ids"]
    (answer,) = await chat(model, messages=FRUITS, max_tokens=24)
    assert answer["choices"][0]["message"]["content"] == generated(library, ids, 24)
    assert answer["choices"][0]["finish_reason"] == "stop"
    text = "Once upon a time"
    (answer,) = await complete(model, prompt=text, max_tokens=24)
    assert answer["choices"][0]["text"] == generated(library, library[1](text)["input_ids"], 24)
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_what_others_ask_meanwhile_changes_nothing(model: TextModel) -> None:
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"Tell me about {what}."}], "max_tokens": 12} | more
        for what, more in (
            ("the sea", {"temperature": 1.0, "seed": 7}),
            ("trains", {"temperature": 0.7, "top_p": 0.9, "seed": -3}),
            ("a lunch box that somebody bought at a station", {}),
            ("bread", {"temperature": 1.5, "top_k": 40, "seed": 2**63 - 1, "presence_penalty": 0.5}),
            ("rain", {"temperature": 1.0, "min_p": 0.05, "seed": 7}),
        )
    ]
    alone = [await chat(model, **body) for body in bodies]
    together = await asyncio.gather(*(chat(model, **body) for body in bodies))
    for one, other in zip(alone, together, strict=True):
        assert one[0]["choices"][0]["message"] == other[0]["choices"][0]["message"]


async def test_seeds_decide(model: TextModel) -> None:
    body: dict[str, Any] = {"messages": FRUITS, "max_tokens": 12, "temperature": 1.3, "n": 3}
    (first,) = await chat(model, **body, seed=1)
    (again,) = await chat(model, **body, seed=1)
    (other,) = await chat(model, **body, seed=2)
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert texts != [choice["message"]["content"] for choice in other["choices"]]
    assert len(set(texts)) == 3
    ChatCompletion.model_validate(first, strict=True)


async def test_logprobs_are_those_of_the_library(model: TextModel, library: tuple[Any, Any]) -> None:
    text = "The capital of France"
    (answer,) = await complete(model, prompt=text, max_tokens=3, echo=True, logprobs=2, logit_bias={"28": 5})
    choice = answer["choices"][0]
    assert choice["text"].startswith(text)
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert choice["text"][logprobs["text_offset"][2] :].startswith(logprobs["tokens"][2])
    ids = library[1](choice["text"])["input_ids"]
    with torch.inference_mode():
        rows = library[0](torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(row[token]) for row, token in zip(rows, ids[1:], strict=False)]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-3)
    assert all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"][1:])


async def test_logprobs_of_a_chat(model: TextModel) -> None:
    chunks = await chat(model, messages=FRUITS, max_tokens=6, logprobs=True, top_logprobs=3, stream=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    choices = [chunk["choices"][0] for chunk in chunks]
    told = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["content"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert bytes(byte for token in told for byte in token["bytes"]).decode() == text
    assert all(token["top_logprobs"][0]["logprob"] == token["logprob"] for token in told)
    assert all(math.isfinite(token["logprob"]) for token in told)


async def test_schemas_are_followed(model: TextModel) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "kind": {"enum": ["apple", "pear"]}},
        "required": ["count", "kind"],
        "additionalProperties": False,
    }
    asked_for = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    (answer,) = await chat(model, messages=FRUITS, response_format=asked_for, max_tokens=60, temperature=1.2)
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert set(value) == {"count", "kind"} and value["kind"] in ("apple", "pear")
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("forced", "pattern"),
    [
        ({"regex": r"[a-c]{3,5}-\d{2}"}, r"[a-c]{3,5}-\d{2}"),
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"json": {"type": "integer", "minimum": 10, "maximum": 19}}, r"1\d"),
        ({"grammar": 'start: "a" "b"+ "!"'}, "ab+!"),
    ],
)
async def test_forms_are_followed(model: TextModel, forced: dict[str, Any], pattern: str) -> None:
    (answer,) = await chat(model, messages=FRUITS, structured_outputs=forced, max_tokens=60)
    assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_that_must_be_called(model: TextModel, stream: bool) -> None:
    objects = await chat(
        model,
        messages=[{"role": "user", "content": "Set the clock to noon."}],
        tools=[WEATHER, CLOCK],
        tool_choice="required",
        max_tokens=60,
        stream=stream,
    )
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in objects]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        name = calls[0]["function"]["name"]
        arguments = "".join(call["function"]["arguments"] for call in calls)
    else:
        (call,) = objects[0]["choices"][0]["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
    assert (set(json.loads(arguments)), name) in (({"city"}, "get_weather"), ({"hour"}, "set_clock"))
    assert objects[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_several_tools_that_must_be_called(model: TextModel) -> None:
    demand: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": True, "max_tokens": 200}
    (answer,) = await chat(model, messages=FRUITS, tools=[CLOCK], **demand)
    calls = answer["choices"][0]["message"]["tool_calls"]
    if answer["choices"][0]["finish_reason"] == "length":
        calls.pop()  # cut short
    assert calls
    assert all(0 <= json.loads(call["function"]["arguments"])["hour"] <= 23 for call in calls)
    ChatCompletion.model_validate(answer, strict=True)


async def test_a_named_tool(model: TextModel) -> None:
    choice = {"type": "function", "function": {"name": "set_clock"}}
    (answer,) = await chat(model, messages=FRUITS, tools=[WEATHER, CLOCK], tool_choice=choice, max_tokens=60)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "set_clock"
    assert 0 <= json.loads(call["function"]["arguments"])["hour"] <= 23
    ChatCompletion.model_validate(answer, strict=True)


async def test_stops_and_streams(model: TextModel) -> None:
    body: dict[str, Any] = {"messages": FRUITS, "max_tokens": 24}
    (whole,) = await chat(model, **body)
    text = whole["choices"][0]["message"]["content"]
    chunks = await chat(model, **body, stream=True, stream_options={"include_usage": True})
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == text
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert whole["usage"]["completion_tokens"] == chunks[-1]["usage"]["completion_tokens"]
    (cut,) = await chat(model, **body, stop=["ranges", "nothing of this"])
    assert cut["choices"][0]["message"]["content"] == text[: text.index("ranges")]
    assert cut["choices"][0]["finish_reason"] == "stop"


async def test_biases_and_penalties(model: TextModel, library: tuple[Any, Any]) -> None:
    token = library[1](" yes", add_special_tokens=False)["input_ids"][0]
    (forced,) = await complete(model, prompt="Well,", max_tokens=3, logit_bias={str(token): 100})
    assert forced["choices"][0]["text"] == " yes yes yes"
    (varied,) = await complete(
        model, prompt="Well,", max_tokens=2, logit_bias={str(token): 9}, frequency_penalty=2
    )
    assert varied["choices"][0]["text"] != " yes yes"


async def test_prompts_answers_and_tokens(model: TextModel, library: tuple[Any, Any]) -> None:
    prompts = [library[1](text)["input_ids"] for text in ("One, two,", "A, b,")]
    (answer,) = await complete(model, prompt=prompts, max_tokens=3, n=2, best_of=3, temperature=1, echo=True)
    Completion.model_validate(answer, strict=True)
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [text.split(",")[0] for text in texts] == ["One", "One", "A", "A"]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert 0 < answer["usage"]["completion_tokens"] <= 18


async def test_leaving_frees_the_row(model: TextModel) -> None:
    body: dict[str, Any] = {"messages": FRUITS, "max_tokens": 400, "ignore_eos": True, "n": 2}
    streams = [model.chat(asked(body | {"stream": True})), model.chat(asked(body))]
    waiting = asyncio.ensure_future(anext(streams[1]))
    assert b"chunk" in await anext(streams[0])
    assert await model.answers_at_work() > 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    for stream in streams:
        await stream.aclose()
    await complete(model, prompt="One", max_tokens=1)  # a step later
    assert await model.answers_at_work() == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "a " * 600}]}, "messages"),
        ({"messages": FRUITS, "max_tokens": 600}, "messages"),
        ({"messages": FRUITS, "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": FRUITS, "prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"messages": FRUITS, "reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": FRUITS, "top_k": "many"}, "top_k"),
        ({"messages": FRUITS, "logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"messages": FRUITS, "structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0",
        ),
    ],
)
async def test_refusals_name_the_field(model: TextModel, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await chat(model, **body)
    assert refused.value.param == param
    if param == "messages":
        assert refused.value.error_code == "context_length_exceeded"


async def test_completions_refuse_too(model: TextModel) -> None:
    with pytest.raises(UnsupportedParameter, match="'suffix' cannot be honoured by transformers"):
        await complete(model, prompt="a", suffix="b")
    with pytest.raises(InvalidRequest, match="is not a token"):
        await complete(model, prompt=[10**9])
    with pytest.raises(InvalidRequest, match="cannot be streamed"):
        await complete(model, prompt="a", best_of=2, stream=True)


async def test_the_tokenizer_is_shown(model: TextModel, library: tuple[Any, Any]) -> None:
    tokens = await model.tokenize(TokenizeRequest(messages=FRUITS))
    assert tokens.ids == library[1].apply_chat_template(FRUITS, add_generation_prompt=True)["input_ids"]
    assert "".join(tokens.texts) == await model.detokenize(tokens.ids)
    smile = await model.tokenize(TokenizeRequest(text="\N{GRINNING FACE}"))
    assert await model.detokenize(smile.ids) == "\N{GRINNING FACE}"
    with pytest.raises(InvalidRequest):
        await model.detokenize([10**9])
    assert model.max_model_tokens == 512


async def test_quantization_says_what_it_needs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="int4 needs a GPU"):
        await Transformers().load(order(folder, tmp_path, quantization="int4"))
