"""The route of responses over an engine that answers by a script, and a strict eye on what it sends."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ekiben.contract.abilities import TextRequest
from ekiben.contract.model import Ability, Family, ModelSpec, SourceSpec, Variant
from ekiben.responses import ID_HEADER
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.http import Answer, Message, Request, Scope, Stream
from ekiben.runtime.text.responses.routes import create_response
from tests.conformance.shapes import problems_of
from tests.conformance.surface import Shape

RESPONSE = Shape("openai.types.responses:Response", "Response")
EVENT = Shape("openai.types.responses:ResponseStreamEvent", "ResponseStreamEvent")

SPEC = ModelSpec(
    name="parrot",
    family=Family.LLM,
    abilities=frozenset({Ability.CHAT}),
    variants=(Variant(format="gguf", source=SourceSpec(kind="local"), engine="parrot"),),
)
RESPONSE_ID = "resp_" + "5" * 32
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


class Scripted:
    """Answers with the objects it was given; an exception among them is raised in its turn."""

    def __init__(self, *script: Any) -> None:
        self.script = script
        self.asked: list[TextRequest] = []
        self.closed = 0

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        self.asked.append(request)
        try:
            for step in self.script:
                if callable(step):
                    step(request)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield json.dumps(step).encode()
        finally:
            self.closed += 1

    async def unload(self) -> None:
        pass


def chunk(finish: str | None = None, *, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None}


USAGE_CHUNK = {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def completion(finish: str = "stop", *, logprobs: Any = None, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}


async def ask(engine: Scripted, body: dict[str, Any], *, alone: bool = False) -> Answer | Stream:
    raw = json.dumps({"model": "parrot", "input": "hi"} | body).encode()
    messages: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        return messages.pop()

    headers = [(b"content-type", b"application/json")]
    if not alone:
        headers.append((ID_HEADER.encode(), RESPONSE_ID.encode()))
    scope: Scope = {"method": "POST", "path": "/v1/responses", "headers": headers}
    request = Request(scope, receive, SPEC, Fronts(engine))
    await request.read()
    return await create_response(request)


async def chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """What the engine is asked."""
    engine = Scripted(completion(content="x"))
    await ask(engine, body)
    return dict(engine.asked[0].body)


async def respond(engine: Scripted, body: dict[str, Any], *, alone: bool = False) -> dict[str, Any]:
    answer = await ask(engine, body, alone=alone)
    assert isinstance(answer, Answer)
    return check_response(answer.body)


async def stream(engine: Scripted, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await ask(engine, body | {"stream": True})
    assert isinstance(answer, Stream)
    return check_events(b"".join([piece async for piece in answer.chunks]))


def check_response(raw: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(raw)
    assert problems_of(value, RESPONSE) == []
    return value


def check_events(raw: bytes) -> list[dict[str, Any]]:
    """Every event, valid, named and numbered."""
    events = []
    for number, told in enumerate(raw.decode().removesuffix("\n\n").split("\n\n")):
        name, data = told.split("\n")
        value = json.loads(data.removeprefix("data: "))
        problems = problems_of(value, EVENT)
        assert not problems, f"{problems}"
        assert value["type"] == name.removeprefix("event: ")
        assert value["sequence_number"] == number
        events.append(value)
    return events


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]
