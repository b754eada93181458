"""Schemas and tools of the llama_cpp engine, over a real model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ekiben_llama_cpp.model import LlamaModel
from tests.integration.llama_lab import FRUITS, calls_of, chunks_of_chat, text_of, whole_chat

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def test_several_calls_can_be_demanded(model: LlamaModel) -> None:
    demand = {"messages": FRUITS, "tools": [CLOCK], "tool_choice": "required", "max_tokens": 500}
    answer = await whole_chat(model, **demand, parallel_tool_calls=True)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = calls_of(answer)
    assert len(calls) > 1, "the small model finds no end before the grammar's"
    assert all(json.loads(call.function.arguments)["hour"] in range(24) for call in calls)
    chunks = await chunks_of_chat(model, **demand, parallel_tool_calls=True)
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    for index, call in enumerate(calls):
        pieces = [delta.function for delta in deltas if delta.index == index]
        assert pieces[0] is not None and pieces[0].name == call.function.name
        assert "".join(piece.arguments or "" for piece in pieces if piece) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


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
