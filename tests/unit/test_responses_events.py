"""What becomes of an engine's answer: a response, and the events that lead to it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ekiben.errors import EngineError, InvalidRequest
from tests.unit.responses_in_hand import (
    RESPONSE_ID,
    USAGE_CHUNK,
    Scripted,
    chunk,
    completion,
    kinds,
    respond,
    stream,
)

TOKEN = {"token": "hi", "logprob": -0.5, "bytes": None}
LOGPROBS = {"content": [TOKEN | {"top_logprobs": [TOKEN]}]}
TOOLS = [{"type": "function", "name": "add", "parameters": {"type": "object"}}]
CUSTOM = [{"type": "custom", "name": "run"}]


async def test_a_text_is_told_in_parts_and_whole() -> None:
    engine = Scripted(
        chunk(role="assistant"), chunk(content="he"), chunk(content="y"), chunk("stop"), USAGE_CHUNK
    )
    events = await stream(engine, {})
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["delta"] for event in events if event["type"].endswith("delta")] == ["he", "y"]
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_" + "5" * 32 + "0000"}
    response = events[-1]["response"]
    assert response["id"] == RESPONSE_ID
    assert response["output"] == [events[-2]["item"]]
    assert response["output"][0]["content"][0]["text"] == "hey"
    assert response["status"] == "completed"
    assert response["usage"]["input_tokens"] == 7
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"
    assert engine.closed == 1


async def test_whole_answers_are_what_streamed_ones_end_with() -> None:
    usual: dict[str, Any] = {"reasoning_content": "hm", "content": "hey"}
    whole = await respond(Scripted(completion(**usual)), {})
    pieces = [chunk(reasoning_content="hm"), chunk(content="hey"), chunk("stop"), USAGE_CHUNK]
    streamed = (await stream(Scripted(*pieces), {}))[-1]["response"]
    for response in (whole, streamed):
        response["created_at"] = response["completed_at"] = 0
    assert whole == streamed


async def test_thoughts_come_before_the_message() -> None:
    engine = Scripted(chunk(reasoning_content="hm"), chunk(content="hey"), chunk("stop"))
    events = await stream(engine, {"include": ["reasoning.encrypted_content"]})
    assert kinds(events)[2:8] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    thought, message = events[-1]["response"]["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "hm")
    assert base64.b64decode(thought["encrypted_content"]) == b"hm"
    assert message["content"][0]["text"] == "hey"
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 6 + [1] * 6


async def test_calls_are_items_of_their_own() -> None:
    def call(index: int, **more: Any) -> dict[str, Any]:
        return chunk(tool_calls=[{"index": index, **more}])

    engine = Scripted(
        call(0, id="call_a", type="function", function={"name": "add", "arguments": ""}),
        call(0, function={"arguments": '{"a":'}),
        call(1, id="call_b", type="function", function={"name": "add", "arguments": "{}"}),
        call(0, function={"arguments": "1}"}),
        chunk("tool_calls"),
    )
    events = await stream(engine, {"tools": TOOLS})
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call"] * 2
    first, second = events[-1]["response"]["output"]
    assert (first["call_id"], first["arguments"], first["name"]) == ("call_a", '{"a":1}', "add")
    assert (second["call_id"], second["arguments"]) == ("call_b", "{}")
    assert kinds(events).count("function_call_arguments.done") == 2
    assert events[-1]["type"] == "response.completed"


async def test_custom_tools_are_called_with_a_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "run", "arguments": '{"input": "ls \\n"}'}}
    whole = await respond(Scripted(completion("tool_calls", tool_calls=[call])), {"tools": CUSTOM})
    assert whole["output"][0]["type"] == "custom_tool_call"
    assert whole["output"][0]["input"] == "ls \n"
    events = await stream(Scripted(chunk(tool_calls=[call]), chunk("tool_calls")), {"tools": CUSTOM})
    assert "custom_tool_call_input.delta" in kinds(events)
    assert events[-1]["response"]["output"][0]["input"] == "ls \n"


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
async def test_an_answer_that_was_cut_short_is_incomplete(finish: str, reason: str) -> None:
    events = await stream(Scripted(chunk(content="he"), chunk(finish), USAGE_CHUNK), {})
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None


async def test_probabilities_come_with_the_text_when_they_are_asked_for() -> None:
    engine = Scripted(chunk(content="hi", logprobs=LOGPROBS), chunk("stop"))
    events = await stream(engine, {"include": ["message.output_text.logprobs"], "top_logprobs": 1})
    delta = next(event for event in events if event["type"].endswith("text.delta"))
    assert delta["logprobs"][0]["top_logprobs"][0]["token"] == "hi"
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"][0]["bytes"] == [104, 105]


async def test_refusals_are_parts_of_the_message() -> None:
    events = await stream(Scripted(chunk(refusal="no"), chunk("stop")), {})
    assert "refusal.delta" in kinds(events)
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]


async def test_an_answer_without_a_word_is_a_message_without_a_word() -> None:
    events = await stream(Scripted(chunk("stop")), {})
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


async def test_deltas_are_padded_only_when_that_is_asked_for() -> None:
    script = [chunk(content="hi"), chunk("stop")]
    plain = await stream(Scripted(*script), {})
    padded = await stream(Scripted(*script), {"stream_options": {"include_obfuscation": True}})
    assert not any("obfuscation" in event for event in plain)
    assert [event["obfuscation"] != "" for event in padded if "obfuscation" in event] == [True]


async def test_an_engine_that_fails_half_way_fails_the_response() -> None:
    engine = Scripted(chunk(content="he"), EngineError("it broke"))
    events = await stream(engine, {})
    assert kinds(events)[-2:] == ["error", "failed"]
    assert events[-2]["message"] == "it broke"
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "it broke"}
    assert response["output"][0]["status"] == "incomplete"


async def test_an_error_before_the_first_event_keeps_its_status() -> None:
    error = InvalidRequest("'messages.1' is bad", param="messages.1.content")
    with pytest.raises(InvalidRequest) as raised:
        await stream(Scripted(error), {"input": "hi", "instructions": "be good"})
    assert raised.value.param == "input.content"


async def test_the_response_repeats_its_request() -> None:
    body = {
        "instructions": "be good",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "tools": TOOLS,
        "tool_choice": "none",
        "text": {"format": {"type": "json_object"}},
        "previous_response_id": "resp_1",
        "max_output_tokens": 20,
        "user": "me",
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": False,
        "truncation": "auto",
    }
    response = await respond(Scripted(completion(content="x")), body)
    told = {name: response[name] for name in body if name not in ("tools", "text")}
    assert told == {name: value for name, value in body.items() if name in told}
    assert response["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}
    assert response["tools"][0]["name"] == "add"
