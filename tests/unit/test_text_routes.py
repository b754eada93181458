"""The text routes: what reaches the engine, and what becomes of its answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ekiben.contract.abilities import TextRequest
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.errors import InvalidRequest, ModelNotFound, UnsupportedMediaType, UnsupportedParameter
from ekiben.runtime.answering import respond
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.http import Answer, Message, Request, Scope, Stream
from ekiben.runtime.text.completions import ROUTES, create_chat_completion, create_completion

SPEC = ModelSpec(
    name="parrot",
    family=Family.LLM,
    abilities=frozenset({Ability.CHAT, Ability.COMPLETE}),
    aliases=("polly",),
    variants=(
        Variant(
            format="gguf",
            source=SourceSpec(kind="local"),
            engine="parrot",
            adapters={"loud": SourceSpec(kind="local")},
        ),
    ),
)
USER = {"role": "user", "content": "hi"}


class Parrot:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.closed = False
        self.asked: TextRequest | None = None

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        self.asked = request
        try:
            if request.body.get("audio"):
                raise UnsupportedParameter("parrots cannot sing", param="audio")
            yield json.dumps(request.body).encode()
            if request.stream:
                yield b'{"n":2}'
        finally:
            self.closed = True

    complete = chat

    async def unload(self) -> None:
        pass


def request_for(
    parrot: Parrot, body: Any, *, content_type: str = "application/json", meant: str = ""
) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    messages: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        return messages.pop()

    scope: Scope = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [
            (b"content-type", content_type.encode()),
            (b"x-request-id", b"req_1"),
            (b"x-ekiben-model", meant.encode()),
        ],
    }
    return Request(scope, receive, SPEC, Fronts(parrot))


async def ask(handler: Any, body: Any, **options: Any) -> tuple[Parrot, Answer | Stream]:
    parrot = Parrot()
    request = request_for(parrot, body, **options)
    await request.read()
    return parrot, await handler(request)


async def test_the_engine_gets_the_request_and_its_answer_is_passed_on() -> None:
    parrot, answer = await ask(create_chat_completion, {"model": "polly", "messages": [USER], "top_k": 3})
    assert isinstance(answer, Answer)
    assert json.loads(answer.body) == {"model": "polly", "messages": [USER], "top_k": 3}
    assert parrot.asked is not None
    assert (parrot.asked.model, parrot.asked.request_id, parrot.asked.stream) == ("parrot", "req_1", False)
    assert parrot.closed


@pytest.mark.parametrize(
    ("name", "meant", "model", "adapter"),
    [
        ("parrot", "", "parrot", None),
        ("polly", "", "parrot", None),
        ("parrot:loud", "", "parrot:loud", "loud"),
        ("gpt-4o", "parrot", "parrot", None),
        ("gpt-4o", "parrot:loud", "parrot:loud", "loud"),
    ],
)
async def test_the_name_says_the_adapter(name: str, meant: str, model: str, adapter: str | None) -> None:
    parrot, _ = await ask(create_chat_completion, {"model": name, "messages": [USER]}, meant=meant)
    assert parrot.asked is not None
    assert (parrot.asked.model, parrot.asked.adapter) == (model, adapter)


async def test_what_a_name_stands_for_must_be_served_here_too() -> None:
    with pytest.raises(ModelNotFound):
        await ask(create_chat_completion, {"model": "parrot", "messages": [USER]}, meant="eagle")


async def test_a_stream_ends_with_done() -> None:
    body = {"model": "parrot", "prompt": "hi", "stream": True}
    _, answer = await ask(create_completion, body)
    assert isinstance(answer, Stream)
    chunks = [chunk async for chunk in answer.chunks]
    assert chunks == [
        b"data: " + json.dumps(body).encode() + b"\n\n",
        b'data: {"n":2}\n\n',
        b"data: [DONE]\n\n",
    ]


async def test_closing_the_stream_closes_the_engines() -> None:
    parrot, answer = await ask(
        create_chat_completion, {"model": "parrot", "messages": [USER], "stream": True}
    )
    assert isinstance(answer, Stream)
    await anext(answer.chunks)
    await answer.chunks.aclose()
    assert parrot.closed


@pytest.mark.parametrize(
    ("body", "param", "error"),
    [
        ({"messages": [USER]}, "model", InvalidRequest),
        ({"model": "eagle", "messages": [USER]}, "model", ModelNotFound),
        ({"model": "parrot", "messages": []}, "messages", InvalidRequest),
        ({"model": "parrot", "messages": "hi"}, "messages", InvalidRequest),
        (
            {"model": "parrot", "messages": [USER], "audio": {"voice": "a", "format": "mp3"}},
            "audio",
            UnsupportedParameter,
        ),
        (b'{"model": "parrot", "messages": [}', None, InvalidRequest),
        (b'{"model": "parrot", "temperature": NaN}', None, InvalidRequest),
        (b'{"model": "parrot", "model": "parrot"}', None, InvalidRequest),
        (b'{"model": "parrot", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", None, InvalidRequest),
        (b"[]", None, InvalidRequest),
        (b"\xff\xfe", None, InvalidRequest),
        (b"", None, InvalidRequest),
    ],
)
async def test_bad_requests_are_refused(body: Any, param: str | None, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await ask(create_chat_completion, body)
    assert getattr(caught.value, "param", None) == param


async def test_another_content_type_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        await ask(create_chat_completion, {"model": "parrot", "messages": [USER]}, content_type="text/plain")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ["a"] * 100_000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"logit_bias": {str(i): 1 for i in range(100_000)}}, "logit_bias"),
        ({"logit_bias": {"cat": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 129}, "tools"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
    ],
)
async def test_values_out_of_range_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(create_chat_completion, {"model": "parrot", "messages": [USER]} | fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 100}, "prompt"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
    ],
)
async def test_prompts_out_of_range_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(create_completion, {"model": "parrot"} | fields)
    assert caught.value.param == param


async def test_an_error_before_the_first_chunk_has_its_own_status() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    audio = {"voice": "a", "format": "mp3"}
    body = {"model": "parrot", "messages": [USER], "stream": True, "audio": audio}
    await respond(request_for(Parrot(), body), create_chat_completion, send)
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"])["error"] == {
        "message": "parrots cannot sing",
        "type": "invalid_request_error",
        "param": "audio",
        "code": "unsupported_parameter",
    }


def test_the_routes_are_those_of_the_api() -> None:
    assert {(route.method, route.path) for route in ROUTES} == {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
    }
