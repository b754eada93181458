"""What a request for a response asks of the engine, and what it is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from ekiben.errors import InvalidRequest, UnsupportedParameter
from tests.unit.responses_in_hand import RESPONSE_ID, Scripted, ask, chat_of, completion, respond

FUNCTION = {"type": "function", "name": "add", "description": "adds", "parameters": {"type": "object"}}
USER = {"role": "user", "content": "hi"}


async def test_a_text_is_a_message_of_the_user() -> None:
    assert (await chat_of({"input": "hi", "instructions": "be good"}))["messages"] == [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "hi"},
    ]


async def test_a_conversation_becomes_messages() -> None:
    items = [
        {"role": "developer", "content": "be good"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "what is this"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA"},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "input_file", "file_data": "data:,", "filename": "a.txt"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "aG0="},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "ls"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "a"}],
        },
        USER,
    ]
    messages = (await chat_of({"input": items}))["messages"]
    assert [message["role"] for message in messages] == [
        "developer",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
    ]
    assert messages[1]["content"][1]["image_url"]["url"].startswith("data:")
    assert [part["type"] for part in messages[1]["content"]] == ["text", "image_url", "input_audio", "file"]
    assert messages[2]["reasoning_content"] == "hm"
    assert messages[2]["content"] == [{"type": "text", "text": "let me see"}]
    assert [call["function"]["arguments"] for call in messages[2]["tool_calls"]] == ["{}", '{"input": "ls"}']
    assert messages[4] == {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "a"}]}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"max_output_tokens": 9}, {"max_completion_tokens": 9}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True},
                }
            },
        ),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 0}),
        ({"top_k": 4, "seed": 1}, {"top_k": 4, "seed": 1}),
        (
            {"metadata": {}, "user": "u", "service_tier": "auto", "max_tool_calls": 3, "truncation": "auto"},
            {},
        ),
    ],
)
async def test_fields_in_the_words_of_a_chat(field: dict[str, Any], expected: dict[str, Any]) -> None:
    chat = await chat_of(field)
    assert {name: value for name, value in chat.items() if name not in ("model", "messages")} == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "required"),
        ({"type": "function", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
        ({"type": "custom", "name": "run"}, {"type": "function", "function": {"name": "run"}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "add"}}],
                },
            },
        ),
    ],
)
async def test_tools_and_choices(choice: Any, expected: Any) -> None:
    tools = [FUNCTION, {"type": "custom", "name": "run", "description": "runs"}]
    chat = await chat_of({"tools": tools, "tool_choice": choice, "parallel_tool_calls": False})
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["add", "run"]
    assert chat["tools"][1]["function"]["parameters"]["required"] == ["input"]
    assert chat["tool_choice"] == expected
    assert chat["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [FUNCTION | {"defer_loading": True}]}, "tools.0.defer_loading"),
        (
            {
                "tools": [
                    {
                        "type": "custom",
                        "name": "g",
                        "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
                    }
                ]
            },
            "tools.0.format.type",
        ),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type"),
        ({"input": [{"type": "local_shell_call_output", "id": "x", "output": ""}]}, "input.0.type"),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "detail": "auto", "file_id": "f"}]}
                ]
            },
            "input.0.content.0.file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]},
            "input.0.content.0.file_url",
        ),
    ],
)
async def test_what_nobody_honours_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        await ask(Scripted(), body)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
        ({"input": [{"id": "msg_1"}]}, "input.0.type"),
        ({"input": [{"type": None, "id": "msg_1"}]}, "input.0.type"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "?"}]}, None),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.image_url"),
        ({"input": [{"type": "nonsense"}]}, "input.0.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"messages": [USER]}, "messages"),
        ({"n": 2}, "n"),
        ({"stream_options": {}}, "stream_options"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"input": [{"role": "user", "content": "\ud800"}]}, "input.0.content"),
    ],
)
async def test_what_is_wrong_is_said(body: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await ask(Scripted(), body)
    assert raised.value.param == (param or "input.0.encrypted_content")


async def test_errors_of_the_chat_come_in_the_words_of_the_request() -> None:
    error = UnsupportedParameter("'verbosity' cannot be honoured: leave it out", param="verbosity")
    with pytest.raises(UnsupportedParameter) as raised:
        await ask(Scripted(error), {"text": {"verbosity": "low"}})
    assert raised.value.param == "text.verbosity"
    assert raised.value.message.startswith("'text.verbosity'")


@pytest.mark.parametrize("field", ["previous_response_id", "background", "store"])
async def test_alone_a_model_keeps_nothing(field: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        await ask(Scripted(), {field: "resp_1" if field == "previous_response_id" else True}, alone=True)
    assert raised.value.param == field


async def test_alone_a_response_has_an_id_of_its_own() -> None:
    response = await respond(Scripted(completion(content="x")), {}, alone=True)
    assert response["id"] != RESPONSE_ID


async def test_a_conversation_that_is_too_long_loses_its_oldest_turns() -> None:
    def limited(request: Any) -> None:
        if len(request.body["messages"]) > 3:
            raise InvalidRequest("too long", param="messages", code="context_length_exceeded")

    turns = [
        {"role": "system", "content": "be good"},
        USER,
        {"role": "assistant", "content": "a"},
        USER,
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "last"},
    ]
    engine = Scripted(limited, completion(content="x"))
    await respond(engine, {"input": turns, "truncation": "auto"})
    assert [message["content"] for message in engine.asked[-1].body["messages"]] == ["be good", "last"]
    with pytest.raises(InvalidRequest) as raised:
        await ask(engine, {"input": turns})
    assert (raised.value.param, raised.value.error_code) == ("input", "context_length_exceeded")
