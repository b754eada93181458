"""The Responses API through the official SDK, on a real model behind a real platform."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.running import Platform, wait_until

MODEL = "smollm2-135m-instruct"
FUNCTION: Any = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
FRUIT: Any = {
    "type": "json_schema",
    "name": "fruit",
    "schema": {
        "type": "object",
        "properties": {"name": {"enum": ["apple", "pear"]}},
        "required": ["name"],
        "additionalProperties": False,
    },
}
LONG = "Write a very long story about a train."


def create(platform: Platform, given: Any = "Name a fruit.", **options: Any) -> Any:
    usual = {"model": MODEL, "input": given, "temperature": 0, "max_output_tokens": 12}
    return platform.client.responses.create(**(usual | options))


def settled(platform: Platform, response_id: str) -> Response:
    """The response once it is over."""

    def over() -> Response | None:
        response = platform.client.responses.retrieve(response_id)
        return None if response.status in ("queued", "in_progress") else response

    return wait_until(over, f"{response_id} to be over")


def text_of_chat(platform: Platform, messages: Any) -> str | None:
    answer = platform.client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=12
    )
    return answer.choices[0].message.content


def test_a_response_says_what_a_chat_says(platform: Platform) -> None:
    response = create(platform, instructions="You are brief.")
    chat = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Name a fruit."},
    ]
    assert response.output_text == text_of_chat(platform, chat)
    assert response.usage.output_tokens > 0
    assert response.status in ("completed", "incomplete")


def test_a_stream_ends_with_the_whole(platform: Platform) -> None:
    whole = create(platform)
    with platform.client.responses.stream(
        model=MODEL, input="Name a fruit.", temperature=0, max_output_tokens=12
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text
    assert platform.client.responses.retrieve(final.id).output_text == text


def test_a_conversation_goes_on_from_its_last_response(platform: Platform) -> None:
    first = create(platform)
    second = create(platform, "Another one.", previous_response_id=first.id)
    chat = [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Another one."},
    ]
    assert second.output_text == text_of_chat(platform, chat)
    items = platform.client.responses.input_items.list(second.id, order="asc", limit=2)
    assert [item.type for item in items] == ["message"] * 3


def test_the_input_is_counted_as_it_is_read(platform: Platform) -> None:
    first = create(platform)
    options: Any = {"model": MODEL, "input": "Another one.", "previous_response_id": first.id}
    counted = platform.client.responses.input_tokens.count(**options)
    answered = platform.client.responses.create(**options, max_output_tokens=4)
    assert answered.usage is not None
    assert counted.input_tokens == answered.usage.input_tokens


def test_an_error_counts_the_items_that_its_client_sent(platform: Platform) -> None:
    first = create(platform)
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
    given = [{"role": "user", "content": "Look."}, {"role": "user", "content": [picture]}]
    for more in ({}, {"stream": True}):
        with pytest.raises(openai.BadRequestError) as caught:
            create(platform, given, previous_response_id=first.id, **more)
        assert (caught.value.param or "").startswith("input.1.content.0"), caught.value


def test_a_required_call_is_made_and_answered(platform: Platform) -> None:
    asked = create(
        platform, "What is 2 and 3?", tools=[FUNCTION], tool_choice="required", max_output_tokens=64
    )
    (call,) = asked.output
    assert (call.type, call.name) == ("function_call", "add")
    assert set(json.loads(call.arguments)) == {"a", "b"}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    answered = create(platform, [output], previous_response_id=asked.id, tools=[FUNCTION], tool_choice="none")
    assert answered.output[0].type == "message"


def test_a_call_is_streamed(platform: Platform) -> None:
    choice = {"type": "function", "name": "add"}
    options = {"tools": [FUNCTION], "tool_choice": choice, "max_output_tokens": 64, "stream": True}
    events = list(create(platform, "What is 2 and 3?", **options))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == events[-1].response.output[0].arguments


def test_a_text_has_the_form_that_was_asked_for(platform: Platform) -> None:
    response = create(platform, text={"format": FRUIT}, max_output_tokens=32)
    assert json.loads(response.output_text)["name"] in ("apple", "pear")


def test_probabilities(platform: Platform) -> None:
    response = create(platform, include=["message.output_text.logprobs"], top_logprobs=2)
    (part,) = response.output[0].content
    assert "".join(item.token for item in part.logprobs) == part.text
    assert {len(item.top_logprobs) for item in part.logprobs} == {2}


def test_a_response_that_was_cut_short_says_so(platform: Platform) -> None:
    response = create(platform, LONG, max_output_tokens=4)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_deleted_response_is_gone(platform: Platform) -> None:
    response = create(platform)
    platform.client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        platform.client.responses.retrieve(response.id)


def test_a_response_in_the_background(platform: Platform) -> None:
    queued = create(platform, background=True)
    assert queued.status == "queued"
    done = settled(platform, queued.id)
    assert done.output_text == create(platform).output_text
    followed: list[Any] = list(platform.client.responses.retrieve(queued.id, stream=True))
    assert followed[-1].response == done
    rest = list(platform.client.responses.retrieve(queued.id, stream=True, starting_after=3))
    assert rest == followed[4:]


def test_a_cancelled_response_frees_the_engine(platform: Platform) -> None:
    running = create(platform, LONG, background=True, max_output_tokens=4000)
    wait_until(
        lambda: platform.client.responses.retrieve(running.id).status == "in_progress" or None, "it to begin"
    )
    cancelled = platform.client.responses.cancel(running.id)
    assert cancelled.status == "cancelled"
    wait_until(lambda: platform.model(MODEL)["in_flight"] == 0 or None, "the engine to be free", timeout_s=1)


def test_what_is_kept_survives_a_kill(make_platform: Callable[..., Platform]) -> None:
    platform = make_platform().start()
    kept = create(platform)
    running = create(platform, LONG, background=True, max_output_tokens=4000)
    assert platform.process is not None
    platform.process.send_signal(signal.SIGKILL)
    platform.process.wait()
    again = make_platform(home=platform.home).start()
    assert again.client.responses.retrieve(kept.id) == kept
    failed = again.client.responses.retrieve(running.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert create(again, "Another one.", previous_response_id=kept.id).output_text
