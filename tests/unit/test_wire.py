"""Request bodies against the types of the `openai` package."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ekiben.errors import InvalidRequest
from ekiben.runtime.text import wire
from ekiben.runtime.text.wire import Surface

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module", autouse=True)
def warmed() -> None:
    wire.warm()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER]} | fields


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "hi"} | fields


@pytest.mark.parametrize(
    "body",
    [
        chat(),
        chat(stream=False),
        chat(stream=True, stream_options={"include_usage": True}),
        chat(stream=None, temperature=None, tools=None, user=None),
        chat(temperature=1, top_p=0.5, seed=-(2**63)),
        chat(unknown={"a": [1]}, top_k=40),
        chat(stop="x"),
        chat(stop=["x", "y"]),
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}),
        chat(tools=[{"type": "custom", "custom": {"name": "c"}}], tool_choice="auto"),
        chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": 1}}}),
        chat(messages=[{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}, USER]),
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "\U0001f600 ש"}]}]),
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
        chat(
            messages=[
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "done"},
            ]
        ),
    ],
)
def test_what_openai_allows_is_accepted(body: dict[str, Any]) -> None:
    wire.validate(Surface.CHAT, body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "messages"),
        (chat(messages=None), "messages"),
        (chat(messages="hi"), "messages"),
        (chat(messages={"role": "user"}), "messages"),
        (chat(messages=["hi"]), "messages.0"),
        (chat(messages=[{"content": "hi"}]), "messages.0.role"),
        (chat(messages=[{"role": 5, "content": "hi"}]), "messages.0.role"),
        (chat(messages=[USER, {"role": "wizard", "content": "hi"}]), "messages.1.role"),
        (chat(messages=[{"role": "user"}]), "messages.0.content"),
        (chat(messages=[{"role": "user", "content": 5}]), "messages.0.content"),
        (chat(messages=[{"role": "user", "content": ["hi"]}]), "messages.0.content.0"),
        (chat(messages=[{"role": "user", "content": [{"type": "smell"}]}]), "messages.0.content.0.type"),
        (chat(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages.0.content.0.text"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "messages.0.tool_call_id"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]),
            "messages.0.content.0.image_url.url",
        ),
        (chat(model=5), "model"),
        (chat(temperature="hot"), "temperature"),
        (chat(temperature=True), "temperature"),
        (chat(n=1.5), "n"),
        (chat(n="1"), "n"),
        (chat(n=True), "n"),
        (chat(max_tokens="many"), "max_tokens"),
        (chat(stream="yes"), "stream"),
        (chat(stream=1), "stream"),
        (chat(stop=5), "stop"),
        (chat(stop=["a", 5]), "stop.1"),
        (chat(tools={}), "tools"),
        (chat(tools=[{"type": "function"}]), "tools.0.function"),
        (chat(tools=[{"type": "function", "function": {"name": 5}}]), "tools.0.function.name"),
        (chat(tools=[{"type": "hammer"}]), "tools.0.type"),
        (chat(tool_choice="maybe"), "tool_choice"),
        (chat(tool_choice={"type": "function"}), "tool_choice.function"),
        (chat(response_format="json"), "response_format"),
        (chat(response_format={"type": "xml"}), "response_format.type"),
        (chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
        (chat(logit_bias={"1": "a"}), "logit_bias.1"),
        (chat(metadata={"a": 1}), "metadata.a"),
        (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage"),
        (chat(reasoning_effort="huge"), "reasoning_effort"),
        (chat(messages=[{"role": "user", "content": "half \ud83d"}]), "messages.0.content"),
        (chat(user="\udc00"), "user"),
    ],
)
def test_what_openai_forbids_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wire.validate(Surface.CHAT, body)
    assert caught.value.param == param
    assert len(caught.value.message) < 300
    assert not caught.value.message.endswith(".")


@pytest.mark.parametrize(
    "prompt", ["hi", ["hi", "ho"], [1, 2, 3], [[1, 2], [3]]], ids=["text", "texts", "tokens", "lists"]
)
def test_every_kind_of_prompt_is_accepted(prompt: object) -> None:
    wire.validate(Surface.COMPLETION, completion(prompt=prompt))


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        (5, "prompt"),
        ({}, "prompt"),
        ([1, "a"], "prompt.0"),
        ([["a"]], "prompt.0.0"),
        ([True], "prompt.0"),
    ],
)
def test_no_other_kind_of_prompt_is(prompt: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wire.validate(Surface.COMPLETION, completion(prompt=prompt))
    assert caught.value.param == param


def test_a_message_says_in_plain_words_what_would_do() -> None:
    with pytest.raises(InvalidRequest, match=r"^'stop' must be a string or a list$"):
        wire.validate(Surface.CHAT, chat(stop=5))
    with pytest.raises(InvalidRequest, match=r"^'messages' is required$"):
        wire.validate(Surface.CHAT, {"model": "m"})


def test_deep_nesting_is_refused_or_accepted_but_never_breaks() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest):
        wire.validate(Surface.CHAT, chat(extension=deep))


async def test_the_first_check_does_not_hold_up_the_loop() -> None:
    wire._adapter.cache_clear()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await wire.ready()
    counting.cancel()
    assert turns > 1
    assert wire._adapter.cache_info().currsize == 2 * len(wire.Surface)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from(["user", "assistant", "tool", "function", "text", "image_url", "required"])
)
KEYS = st.sampled_from(
    ["role", "content", "type", "text", "name", "function", "custom", "tool_calls", "id", "arguments"]
) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "stream",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "logit_bias",
        "n",
        "seed",
        "metadata",
        "stream_options",
        "temperature",
        "max_tokens",
        "audio",
        "prediction",
        "functions",
        "function_call",
        "modalities",
    ]
)


@given(surface=st.sampled_from(Surface), body=st.dictionaries(FIELDS, VALUES, max_size=6))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_is_accepted_or_answered_with_a_reason(surface: Surface, body: dict[str, Any]) -> None:
    try:
        wire.validate(surface, body)
    except InvalidRequest as error:
        assert error.message


@given(messages=VALUES)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_accepted_messages_are_lists_of_objects_with_roles(messages: Any) -> None:
    try:
        wire.validate(Surface.CHAT, chat(messages=messages))
    except InvalidRequest as error:
        assert error.param is not None
    else:
        assert all(isinstance(message["role"], str) for message in messages)
