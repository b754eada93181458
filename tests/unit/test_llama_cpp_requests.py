"""What the llama_cpp engine makes of OpenAI's requests, without a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract import InvalidRequest, LoadRequest, ModelSpec, TextRequest, UnsupportedParameter
from ekiben.contract.gguf import GgufModel
from ekiben.contract.testing import load_request
from ekiben.contract.text.fan_out import interleave
from ekiben.contract.text.tools import MAX_CALLS, CallReader, CallsReader, gathered, plan_tools
from ekiben.contract.text.usage import total_usage
from ekiben_llama_cpp.chat import ChatJob
from ekiben_llama_cpp.completion import CompletionJob, prompts_of
from ekiben_llama_cpp.memory import working_bytes
from ekiben_llama_cpp.parameters import seeds
from ekiben_llama_cpp.sizes import Sizes, sizes_of
from ekiben_llama_cpp.template import template_for
from ekiben_llama_cpp.voice import Voice

VOICE = Voice(loaded_as="m")
USER = {"role": "user", "content": "hi"}


def function(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name}
    if parameters is not None:
        described["parameters"] = parameters
    return {"type": "function", "function": described}


WEATHER = function("weather", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = function("clock")


def text_request(body: dict[str, Any], *, stream: bool = False) -> TextRequest:
    return TextRequest(body=body, raw=b"", stream=stream, model="m", request_id="r")


def chat(**fields: Any) -> ChatJob:
    body = {"model": "m", "messages": [USER]} | fields
    return ChatJob(text_request(body, stream=bool(body.get("stream"))), VOICE)


def completion(**fields: Any) -> CompletionJob:
    body = {"model": "m", "prompt": "hi"} | fields
    request = text_request(body, stream=bool(body.get("stream")))
    prompts = prompts_of(body)
    return CompletionJob(request, VOICE, prompts=prompts, echoes=[""] * len(prompts))


def test_sampling_parameters_are_passed_on() -> None:
    wanted = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "stop": ["x"],
        "logit_bias": {"5": -100},
        "top_k": 7,
        "min_p": 0.1,
    }
    (ask,) = chat(**wanted).asks
    assert wanted.items() <= ask.items()
    (ask,) = completion(**wanted).asks
    assert wanted.items() <= ask.items()


def test_fields_that_ask_for_nothing_are_accepted_and_not_passed_on() -> None:
    (ask,) = chat(
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        verbosity="medium",
        modalities=["text"],
        prompt_cache_key="k",
        safety_identifier="s",
        temperature=None,
    ).asks
    own = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    assert ask == {"messages": [USER]} | own


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"service_tier": "flex"},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "a", "format": "mp3"}},
        {"prediction": {"type": "content", "content": "x"}},
        {"web_search_options": {}},
        {"functions": [{"name": "f"}]},
        {"function_call": "auto"},
        {"reasoning_effort": "high"},
        {"verbosity": "low"},
        {"chat_template": "{{ x }}"},
        {"guided_json": {}},
        {"suffix": "x"},
    ],
)
def test_what_cannot_be_honoured_is_never_dropped(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**fields)
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "function", "name": "f", "content": "x"}], "messages.0.role"),
        (
            [USER, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
            "messages.1.content.0.type",
        ),
        (
            [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}],
            "messages.0.function_call",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f"}}]}],
            "messages.0.tool_calls.0.type",
        ),
    ],
)
def test_messages_that_a_text_model_cannot_read_are_named(messages: list[Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(messages=messages)
    assert caught.value.param == param


def test_arguments_of_an_earlier_call_must_be_json() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "city=Paris"}}
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert caught.value.param == "messages.0.tool_calls.0.function.arguments"


def test_a_refusal_in_the_conversation_is_text_to_the_model() -> None:
    (ask,) = chat(messages=[USER, {"role": "assistant", "refusal": "no"}, USER]).asks
    assert ask["messages"][1] == {"role": "assistant", "content": "no"}


def test_the_newer_name_of_the_limit_wins() -> None:
    (ask,) = chat(max_tokens=5, max_completion_tokens=7).asks
    assert ask["max_tokens"] == 7


def test_completions_have_sixteen_tokens_by_default() -> None:
    (ask,) = completion().asks
    assert ask["max_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_each_prompt_is_a_request(prompt: Any, prompts: list[Any]) -> None:
    assert [ask["prompt"] for ask in completion(prompt=prompt).asks] == prompts


def test_several_answers_have_seeds_of_their_own() -> None:
    assert [ask["seed"] for ask in chat(n=3, seed=7).asks] == [7, 8, 9]
    assert all("seed" not in ask for ask in chat(n=3).asks)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_fits_llama_cpp_and_means_a_seed(seed: int) -> None:
    (fields,) = seeds({"seed": seed}, 1)
    assert 0 <= fields["seed"] < 2**32 - 1  # the largest 32-bit number means: any


def test_tools_without_a_choice_are_the_models_to_call() -> None:
    plan = plan_tools({"tools": [WEATHER], "parallel_tool_calls": False})
    assert plan.fields == {"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False}
    assert plan.reader() is None


def test_a_required_call_is_asked_for_as_json() -> None:
    plan = plan_tools({"tools": [WEATHER, CLOCK], "tool_choice": "required"})
    assert plan.fields["tool_choice"] == "none"
    schema = plan.fields["response_format"]["json_schema"]["schema"]
    assert [branch["properties"]["name"]["const"] for branch in schema["anyOf"]] == ["weather", "clock"]
    named = plan_tools({"tools": [WEATHER, CLOCK], "tool_choice": WEATHER})
    assert named.fields["response_format"]["json_schema"]["schema"] == WEATHER["function"]["parameters"]


def test_several_calls_may_be_demanded() -> None:
    body = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": True}
    schema = plan_tools(body).fields["response_format"]["json_schema"]["schema"]
    assert (schema["type"], schema["minItems"], schema["maxItems"]) == ("array", 1, MAX_CALLS)
    (branch,) = schema["items"]["anyOf"]
    assert branch["properties"]["name"] == {"const": "weather"}
    assert branch["properties"]["arguments"] == {"$ref": "#/$defs/arguments0"}
    assert schema["$defs"]["arguments0"] == WEATHER["function"]["parameters"]


def test_references_inside_a_schema_follow_it_into_the_larger_one() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"$ref": "#"}}}
    plan = plan_tools({"tools": [CLOCK, function("tree", tree)], "tool_choice": "required"})
    moved = plan.fields["response_format"]["json_schema"]["schema"]["$defs"]["arguments1"]
    assert moved["properties"]["next"]["$ref"] == "#/$defs/arguments1/$defs/t"
    assert moved["$defs"]["t"]["$ref"] == "#/$defs/arguments1"


def test_allowed_tools_leave_the_others_out() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}
    plan = plan_tools({"tools": [WEATHER, CLOCK], "tool_choice": allowed})
    assert plan.fields == {"tools": [CLOCK], "tool_choice": "auto"}


@pytest.mark.parametrize(
    ("body", "param", "error"),
    [
        ({"tool_choice": "required"}, "tool_choice", InvalidRequest),
        ({"tools": [function('f"}')]}, "tools.0.function.name", InvalidRequest),
        (
            {"tools": [function("f", {"enum": list(range(1000))})]},
            "tools.0.function.parameters",
            InvalidRequest,
        ),
        ({"tools": [WEATHER], "tool_choice": function("other")}, "tool_choice", InvalidRequest),
        (
            {"tools": [WEATHER, {"type": "custom", "custom": {"name": "c"}}]},
            "tools.1.type",
            UnsupportedParameter,
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
            "tool_choice",
            UnsupportedParameter,
        ),
    ],
)
def test_tools_that_cannot_be_are_named(body: dict[str, Any], param: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        plan_tools(body)
    assert getattr(caught.value, "param", None) == param


JSON_OBJECTS = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        st.integers() | st.text('}{"\\ a', max_size=8) | st.booleans(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(calls=st.lists(st.tuples(st.text(min_size=1, max_size=8), JSON_OBJECTS), max_size=4), data=st.data())
def test_several_calls_are_read_the_same_however_they_are_cut(
    calls: list[tuple[str, dict[str, Any]]], data: Any
) -> None:
    written = [{"name": name, "arguments": arguments} for name, arguments in calls]
    text = json.dumps(written, indent=data.draw(st.sampled_from([None, 2])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    reader = CallsReader(None, several=True)
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    deltas = [delta for piece in pieces for delta in reader.feed(piece)] + list(reader.finish())
    read = gathered(deltas)
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in read] == calls
    assert len({call["id"] for call in read}) == len(calls)
    assert reader.called is bool(calls)


def test_of_several_calls_the_last_may_be_cut_short() -> None:
    reader = CallsReader(None, several=True)
    text = '[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {"y": [1, 2'
    read = gathered([*reader.feed(text), *reader.finish()])
    assert [call["function"]["name"] for call in read] == ["a", "b"]
    assert [call["function"]["arguments"] for call in read] == ['{"x": 1}', '{"y": [1, 2']


@given(name=st.text(min_size=1, max_size=12), arguments=JSON_OBJECTS, data=st.data())
def test_a_call_is_read_the_same_however_it_is_cut(name: str, arguments: dict[str, Any], data: Any) -> None:
    indent = data.draw(st.sampled_from([None, 2]))
    text = json.dumps({"name": name, "arguments": arguments}, indent=indent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reader = CallReader(None)
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    read = "".join(map(reader.feed, pieces)) + reader.finish()
    assert reader.name == name
    assert json.loads(read) == arguments


def test_a_call_that_was_cut_short_keeps_what_there_is() -> None:
    reader = CallReader(None)
    assert reader.feed('{"name": "f", "arguments": {"a": {"b": 1}') + reader.finish() == '{"a": {"b": 1}'
    early = CallReader(None)
    assert early.feed('{"name": "f') + early.finish() == ""
    assert early.name is None


def test_usage_counts_each_prompt_once() -> None:
    def used(read: int, written: int) -> dict[str, Any]:
        return {"prompt_tokens": read, "completion_tokens": written}

    total = total_usage([(0, used(10, 1)), (0, used(10, 2)), (1, used(5, 3))])
    assert (total["prompt_tokens"], total["completion_tokens"], total["total_tokens"]) == (15, 6, 21)


def gguf(**metadata: Any) -> GgufModel:
    template = metadata.pop("template", None)
    return GgufModel(
        architecture="llama",
        kind="model",
        name=None,
        license=None,
        quantization=None,
        context_tokens=2048,
        parameters=1,
        pooled=False,
        chat_template=template,
        metadata={f"llama.{key}": value for key, value in metadata.items()},
    )


def test_the_cache_of_a_llama_is_estimated_as_llama_cpp_allocates_it() -> None:
    model = gguf(
        block_count=30,
        embedding_length=576,
        **{"attention.head_count": 9, "attention.head_count_kv": 3},
    )
    options = {"kv_cache": "f16"}
    sizes = Sizes(context=1024, parallel=1, step=32, encodes=False)
    once = working_bytes(model, sizes, options)
    twice = working_bytes(model, replace(sizes, parallel=2), options)
    scores = 9 * 1024 * 32 * 4
    assert twice - once - scores == 2 * 30 * 1024 * 3 * 64 * 2
    assert working_bytes(model, sizes, {"kv_cache": "q8_0"}) < once


def load_order(tmp_path: Path, *, family: str = "llm", ability: str = "chat", **options: Any) -> LoadRequest:
    variant = {"format": "gguf", "engine": "llama_cpp", "source": {"kind": "local"}}
    spec = ModelSpec.model_validate(
        {"name": "m", "family": family, "abilities": [ability], "variants": [variant]}
    )
    return load_request(spec, tmp_path / "m.gguf", scratch=tmp_path, options=options)


def test_what_the_options_leave_open_follows_from_the_model(tmp_path: Path) -> None:
    assert sizes_of(load_order(tmp_path), gguf()).context == 2048
    assert sizes_of(load_order(tmp_path, context=512, parallel=3), gguf()).tokens == 3 * 512
    pictures = replace(load_order(tmp_path, batch=64), companions={"mmproj": tmp_path})
    assert [sizes_of(order, gguf()).step for order in (load_order(tmp_path, batch=64), pictures)] == [64, 512]
    embedding = load_order(tmp_path, family="embedding", ability="embed", context=300)
    assert sizes_of(embedding, gguf()).step == 300
    encoder = gguf(**{"attention.causal": False})
    assert sizes_of(embedding, encoder).encodes
    assert not sizes_of(load_order(tmp_path), encoder).encodes


def test_a_template_without_tools_is_taught_them_and_others_are_left_alone() -> None:
    plain = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert template_for(gguf(template=plain), None).endswith(plain)
    assert "<tool_call>" in template_for(gguf(template=plain), None)
    assert template_for(gguf(template=plain + "{% if tools %}x{% endif %}"), None) == ""
    assert template_for(gguf(template=plain), "{{ tools }}") == "{{ tools }}"
    assert "im_start" in template_for(gguf(), None)


async def test_streams_are_interleaved_and_all_closed_on_the_first_error() -> None:
    closed: list[str] = []
    gate = asyncio.Event()

    async def numbers(name: str, *, fail: bool) -> AsyncGenerator[str, None]:
        try:
            yield f"{name}1"
            if fail:
                await gate.wait()
                raise InvalidRequest("no more")
            yield f"{name}2"
            await asyncio.Event().wait()
        finally:
            closed.append(name)

    seen = []
    with pytest.raises(InvalidRequest):
        async for index, item in interleave([numbers("a", fail=True), numbers("b", fail=False)]):
            seen.append((index, item))
            if len(seen) == 3:
                gate.set()
    assert sorted(seen) == [(0, "a1"), (1, "b1"), (1, "b2")]
    assert sorted(closed) == ["a", "b"]


def test_the_prelude_is_shipped_with_the_package() -> None:
    import ekiben_llama_cpp.template

    assert Path(ekiben_llama_cpp.template.__file__).with_name("tool_calls.jinja").is_file()


def test_a_stream_that_ends_before_its_first_word_begins_with_its_role() -> None:
    ending = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "id": "a"})
    for more in ({}, {"logprobs": True}):
        (first,) = chat(stream=True, **more).write(0, ending.encode())
        assert json.loads(first)["choices"][0]["delta"] == {"role": "assistant"}
