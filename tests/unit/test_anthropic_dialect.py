"""Anthropic's dialect over a scripted model: what it asks in OpenAI's words, and what it makes of answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ekiben.contract.abilities import TextRequest, TokenizeRequest, Tokens
from ekiben.contract.dialect import Dialect, Failure
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.errors import EkibenError, EngineError, InvalidRequest
from ekiben.plugins.dialects import DialectErrors, Spoken
from ekiben.runtime.dialects import dialect_routes
from ekiben.runtime.routing import routes_of
from ekiben_anthropic.counting import CountTranslation
from ekiben_anthropic.dialect import Anthropic
from ekiben_anthropic.messages import MessagesTranslation
from tests.replica_routes import client

DIALECT: Dialect = Anthropic()
ROUTES = dialect_routes(
    [Spoken(DIALECT, tuple(DIALECT.routes), DialectErrors(DIALECT))], routes_of(frozenset({Ability.CHAT}))
)
MODEL = ModelSpec(
    name="parrot",
    family=Family.LLM,
    abilities=frozenset({Ability.CHAT}),
    variants=(Variant(format="gguf", source=SourceSpec(kind="local"), engine="parrot"),),
)
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USER = {"role": "user", "content": "hi"}
ASK = {"model": "parrot", "max_tokens": 8, "messages": [USER]}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "fly", "arguments": '{"to": "tree"}'}}


class Parrot:
    """Says what it is told to: objects, or an error."""

    max_model_tokens = 64

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = answers
        self.asked: TextRequest | None = None

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        self.asked = request
        for answer in self.answers:
            if isinstance(answer, Exception):
                raise answer
            yield json.dumps(answer).encode()

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        count = len(json.dumps(request.messages)) + len(request.tools)
        return Tokens(ids=range(count), texts=[""] * count)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return ""

    async def unload(self) -> None:
        pass


def whole(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": reason} | more
    answer = {"id": "chatcmpl-7", "object": "chat.completion", "created": 1, "model": "parrot"}
    return answer | {"choices": [choice], "usage": USAGE}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "parrot"}
    return head | {"choices": [choice]}


LAST = chunk({}) | {"choices": [], "usage": USAGE}


async def post(parrot: Parrot, body: object, path: str = "/v1/messages") -> tuple[int, bytes]:
    headers = {"content-type": "application/json", "x-request-id": "req_1"}
    async with client(MODEL, parrot, ROUTES) as http:
        answer = await http.post(path, content=json.dumps(body).encode(), headers=headers)
    return answer.status_code, answer.content


async def ask(parrot: Parrot, **more: Any) -> Message:
    status, body = await post(parrot, ASK | more)
    assert status == 200, body
    return Message.model_validate(json.loads(body), strict=True)


async def events_of(parrot: Parrot, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and data, checked against the SDK's types."""
    status, body = await post(parrot, ASK | {"stream": True} | more)
    assert status == 200, body
    events = []
    for text in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert value["type"] == name.removeprefix("event: ")
        if value["type"] != "error":
            EVENT.validate_python(value, strict=True)
        events.append((value["type"], value))
    return events


CONVERSATION = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
            },
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "A tree."},
            {"type": "tool_use", "id": "call_1", "name": "fly", "input": {"to": "tree"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "call_1", "content": "done"},
            {
                "type": "tool_result",
                "tool_use_id": "call_2",
                "is_error": True,
                "content": [{"type": "text", "text": "no"}],
            },
            {"type": "text", "text": "and now?"},
        ],
    },
]
TRANSLATED = [
    {"role": "system", "content": "Be terse.\nBe kind."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ],
    },
    {
        "role": "assistant",
        "content": "A tree.",
        "reasoning_content": "hm",
        "tool_calls": [CALL],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    {"role": "tool", "tool_call_id": "call_2", "content": "Error: no"},
    {"role": "user", "content": "and now?"},
]


async def test_a_conversation_in_openai_s_words() -> None:
    parrot = Parrot(whole({"content": "hello"}))
    await ask(
        parrot,
        system=[{"type": "text", "text": "Be terse."}, {"type": "text", "text": "Be kind."}],
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        service_tier="auto",
        thinking={"type": "disabled"},
        tools=[{"name": "fly", "description": "Fly.", "input_schema": {"type": "object"}, "strict": True}],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}},
        messages=CONVERSATION,
    )
    assert parrot.asked is not None
    assert parrot.asked.body == {
        "model": "parrot",
        "max_tokens": 8,
        "messages": TRANSLATED,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "fly",
                    "parameters": {"type": "object"},
                    "description": "Fly.",
                    "strict": True,
                },
            }
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": False},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
        },
        "stop": ["END"],
        "user": "u1",
    }


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "fly"}, {"type": "function", "function": {"name": "fly"}}),
    ],
)
async def test_which_tool_must_be_used(choice: dict[str, str], asked: object) -> None:
    parrot = Parrot(whole({"content": "hello"}))
    await ask(parrot, tools=[{"name": "fly", "input_schema": {"type": "object"}}], tool_choice=choice)
    assert parrot.asked is not None
    assert parrot.asked.body["tool_choice"] == asked


async def test_a_whole_answer() -> None:
    answer = await ask(
        Parrot(whole({"content": "bye", "reasoning_content": "hm", "tool_calls": [CALL]}, "tool_calls"))
    )
    assert answer.to_dict() == {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "parrot",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "bye"},
            {"type": "tool_use", "id": "call_1", "name": "fly", "input": {"to": "tree"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "output_tokens": 5,
        },
    }


@pytest.mark.parametrize(
    ("reason", "matched", "told"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "</s>", ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
async def test_why_it_ended(reason: str, matched: str | None, told: tuple[str, str | None]) -> None:
    answer = await ask(Parrot(whole({"content": "x"}, reason, stop_reason=matched)), stop_sequences=["END"])
    assert (answer.stop_reason, answer.stop_sequence) == told


async def test_a_call_that_was_cut_off_has_no_input() -> None:
    call = CALL | {"function": {"name": "fly", "arguments": '{"to": "tr'}}
    answer = await ask(Parrot(whole({"content": None, "tool_calls": [call]}, "length")))
    assert (answer.content[0].to_dict()["input"], answer.stop_reason) == ({}, "max_tokens")


async def test_a_stream_of_blocks() -> None:
    parrot = Parrot(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "h"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "by"}),
        chunk({"content": "e"}),
        chunk({"tool_calls": [{"index": 0, **CALL, "function": {"name": "fly", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"to": '}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"tree"}'}}]}),
        chunk({"tool_calls": [{"index": 1, **CALL, "id": "call_2"}]}),
        chunk({}, "tool_calls"),
        LAST,
    )
    events = await events_of(parrot)
    assert parrot.asked is not None
    assert parrot.asked.body["stream_options"] == {"include_usage": True}
    assert events[0][1]["message"]["id"] == "msg_7"
    assert [(kind, value.get("index")) for kind, value in events] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("message_delta", None),
        ("message_stop", None),
    ]
    blocks = [value["content_block"] for kind, value in events if kind == "content_block_start"]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.get("id") for block in blocks[2:]] == ["call_1", "call_2"]
    deltas = [value["delta"] for kind, value in events if kind == "content_block_delta"]
    assert "".join(delta.get("partial_json", "") for delta in deltas[:6]) == '{"to": "tree"}'
    assert events[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2][1]["usage"]["output_tokens"] == 5


async def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    events = await events_of(Parrot(chunk({"content": "by"}), EngineError("out of seeds")))
    assert [kind for kind, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "error",
    ]
    assert events[-1][1] == {
        "type": "error",
        "error": {"type": "api_error", "message": "out of seeds"},
        "request_id": "req_1",
    }


async def test_an_error_before_the_first_object_has_its_own_status() -> None:
    for stream in (False, True):
        status, body = await post(Parrot(InvalidRequest("no seeds", param="x")), ASK | {"stream": stream})
        assert status == 400
        assert json.loads(body)["error"] == {"type": "invalid_request_error", "message": "no seeds"}


async def test_counting() -> None:
    body = {"model": "parrot", "messages": [USER], "system": "s", "tools": []}
    status, answer = await post(Parrot(), body, "/v1/messages/count_tokens")
    messages = [{"role": "system", "content": "s"}, USER]
    assert status == 200
    assert MessageTokensCount.model_validate_json(answer).input_tokens == len(json.dumps(messages))
    status, answer = await post(Parrot(), body | {"max_tokens": 3}, "/v1/messages/count_tokens")
    assert (status, json.loads(answer)["error"]["type"]) == (400, "invalid_request_error")


def block(**fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def tool(**fields: object) -> dict[str, Any]:
    return {"tools": [{"name": "fly", "input_schema": {"type": "object"}} | fields]}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [USER | {"name": "x"}]}, "messages.0.name"),
        ({"messages": [USER, {"role": "assistant", "content": "I"}]}, "messages"),
        (block(type="text"), "messages.0.content.0.text"),
        (block(type="document", source={}), "messages.0.content.0.type"),
        (block(type="tool_use", id="a", name="b", input={}), "messages.0.content.0.type"),
        (block(type="image", source={"type": "url", "url": "http://x"}), "messages.0.content.0.source.type"),
        (
            block(type="image", source={"type": "base64", "media_type": "image/tiff", "data": ""}),
            "messages.0.content.0.source.media_type",
        ),
        (block(type="text", text="x", citations=[{}]), "messages.0.content.0.citations"),
        (
            block(type="tool_result", tool_use_id="a", content=[{"type": "image"}]),
            "messages.0.content.0.content.0.type",
        ),
        ({"system": 7}, "system"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": "x"}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": ["a"] * 5}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": {"trace": 1}}, "metadata.trace"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"container": "c"}, "container"),
        ({"best_of": 2}, "best_of"),
        (tool(type="web_search_20250305"), "tools.0.type"),
        (tool(name="no spaces"), "tools.0.name"),
        (tool(input_schema={"type": "array"}), "tools.0.input_schema"),
        (tool(defer_loading=True), "tools.0.defer_loading"),
        (tool() | {"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        (tool() | {"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(wrong: dict[str, Any], param: str) -> None:
    parrot = Parrot()
    status, body = await post(parrot, ASK | wrong)
    error = ErrorResponse.model_validate_json(body)
    assert (status, error.type, error.error.type) == (400, "error", "invalid_request_error")
    assert error.request_id == "req_1"
    with pytest.raises(InvalidRequest) as raised:
        MessagesTranslation(ASK | wrong)
    assert (raised.value.param, raised.value.message) == (param, error.error.message)
    assert parrot.asked is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_types_by_status(status: int, kind: str) -> None:
    failure = Failure(status=status, type="x", code=None, message="m", request_id="r")
    assert json.loads(DIALECT.error(failure))["error"] == {"type": kind, "message": "m"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["system", "tools", "tool_choice", "thinking", "output_config", "metadata", "stop_sequences", "stream"]
)
KINDS = st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking"])
BLOCKS = st.dictionaries(
    st.sampled_from(["text", "source", "id", "name", "input", "tool_use_id", "content", "thinking"]), JSON
)
CONTENTS = st.lists(st.builds(lambda kind, fields: {"type": kind} | fields, KINDS, BLOCKS), max_size=3)
MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant", "system"]),
        CONTENTS | JSON,
    ),
    max_size=3,
)


@given(messages=MESSAGES | JSON, more=st.dictionaries(NAMES, JSON, max_size=3))
def test_whatever_is_sent_is_translated_or_refused(messages: Any, more: dict[str, Any]) -> None:
    for translate in (MessagesTranslation, CountTranslation):
        try:
            translate(ASK | {"messages": messages} | more)
        except EkibenError as error:
            assert error.status == 400
