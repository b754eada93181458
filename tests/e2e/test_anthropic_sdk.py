"""Anthropic's official SDK on a real platform with a real model."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, MessageParam, TextBlock, ToolParam, ToolUseBlock

from tests.running import Platform, wait_until

MODEL = "smollm2-135m-instruct"
KEY = "a-key-of-this-test"
TOOL: ToolParam = {
    "name": "weigh",
    "description": "Weigh a fruit.",
    "input_schema": {
        "type": "object",
        "properties": {"fruit": {"type": "string", "maxLength": 12}, "grams": {"type": "integer"}},
        "required": ["fruit", "grams"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def guarded(make_platform: Callable[..., Platform]) -> Platform:
    return make_platform(env={"EKIBEN_API_KEY": KEY, "EKIBEN_HEARTBEAT_S": "0.1"}).start()


@pytest.fixture
def client(guarded: Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=guarded.url, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def texts_of(message: Message) -> str:
    return "".join(block.text for block in message.content if isinstance(block, TextBlock))


def test_a_stream_that_waited_for_its_model(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model=MODEL,
        max_tokens=8,
        messages=[{"role": "user", "content": "Name three fruits."}],
        extra_body={"temperature": 0},
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1
    assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "max_tokens")
    assert texts_of(message)
    assert message.usage.output_tokens == 8
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 5


def test_an_answer_at_once_is_the_one_that_is_streamed(client: anthropic.Anthropic) -> None:
    asked = {
        "model": MODEL,
        "max_tokens": 12,
        "extra_body": {"temperature": 0},
        "system": "You are terse.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Once more."},
        ],
    }
    raw = client.messages.with_raw_response.create(**asked)  # type: ignore[call-overload]
    message = Message.model_validate(json.loads(raw.text()), strict=True)
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    assert message.id.startswith("msg_")
    with client.messages.stream(**asked) as stream:  # type: ignore[arg-type]
        assert texts_of(stream.get_final_message()) == texts_of(message)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weigh"}])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_that_must_be_used(
    client: anthropic.Anthropic, choice: dict[str, str], streamed: bool
) -> None:
    asked = {
        "model": MODEL,
        "max_tokens": 96,
        "extra_body": {"temperature": 0},
        "tools": [TOOL],
        "tool_choice": choice,
        "messages": [{"role": "user", "content": "How heavy is an apple of 150 grams?"}],
    }
    if streamed:
        with client.messages.stream(**asked) as stream:  # type: ignore[arg-type]
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)  # type: ignore[call-overload]
    (call,) = [block for block in message.content if isinstance(block, ToolUseBlock)]
    assert (message.stop_reason, call.name) == ("tool_use", "weigh")
    assert set(call.input) == {"fruit", "grams"}
    answered = client.messages.create(
        model=MODEL,
        max_tokens=4,
        tools=[TOOL],
        tool_choice={"type": "none"},
        messages=[
            {"role": "user", "content": "How heavy is it?"},
            {"role": "assistant", "content": message.content},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "150 grams"}],
            },
        ],
    )
    assert answered.stop_reason in ("max_tokens", "end_turn")


def test_a_count_is_what_a_request_then_uses(client: anthropic.Anthropic) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "How many tokens are in this?"}]
    count = client.messages.count_tokens(model=MODEL, system="Be terse.", messages=messages)
    message = client.messages.create(model=MODEL, max_tokens=1, system="Be terse.", messages=messages)
    usage = message.usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with_tools = client.messages.count_tokens(model=MODEL, messages=messages, tools=[TOOL])
    assert with_tools.input_tokens > 20


def test_a_stream_that_is_cancelled_by_its_id_ends_with_an_error(
    guarded: Platform, client: anthropic.Anthropic
) -> None:
    kinds: list[str] = []
    stream = client.messages.create(
        model=MODEL,
        max_tokens=4000,
        messages=[{"role": "user", "content": "Tell me a very long story."}],
        stream=True,
        extra_headers={"x-request-id": "a-long-story"},
    )
    with pytest.raises(anthropic.APIStatusError) as cancelled:
        for event in stream:
            kinds.append(event.type)
            if len(kinds) == 5:
                assert post(guarded, "/api/requests/a-long-story/cancel") == {
                    "id": "a-long-story",
                    "cancelled": 1,
                }
    assert "cancelled by its id" in str(cancelled.value)
    assert "message_stop" not in kinds
    idle = wait_until(lambda: in_flight(guarded) == 0 or None, "the lease to come back", timeout_s=5)
    assert idle


def test_tokens_and_back(guarded: Platform) -> None:
    text = "Grüße aus Köln"
    answer = post(guarded, "/tokenize", {"model": MODEL, "prompt": text, "return_token_strs": True})
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] >= 1024
    back = post(guarded, "/v1/detokenize", {"model": MODEL, "tokens": answer["tokens"]})
    assert back == {"prompt": text}


def post(platform: Platform, path: str, body: object = None) -> Any:
    request = urllib.request.Request(
        platform.url + path,
        data=json.dumps(body or {}).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {KEY}"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def in_flight(platform: Platform) -> int:
    request = urllib.request.Request(
        f"{platform.url}/api/replicas", headers={"authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return sum(replica["in_flight"] for replica in json.load(response)["replicas"])


def test_errors_are_those_of_the_sdk(guarded: Platform, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="no-such", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    assert missing.value.type == "not_found_error"
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError) as wrong:
        client.messages.create(
            model=MODEL,
            max_tokens=1,
            messages=[{"role": "user", "content": "x"}],
            extra_body={"top_k": -1},
        )
    assert wrong.value.type == "invalid_request_error"
    assert "'top_k'" in str(wrong.value)
    stranger = anthropic.Anthropic(base_url=guarded.url, api_key="another", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError) as refused:
        stranger.messages.create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": "x"}])
    assert refused.value.type == "authentication_error"
