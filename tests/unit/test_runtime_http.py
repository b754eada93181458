"""What a replica's request and its answer do when something goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ekiben.contract.model import ModelSpec
from ekiben.errors import EngineError
from ekiben.runtime.answering import respond
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.http import Answer, Handler, Message, Request, Stream, StreamBroken

MODEL = ModelSpec.model_validate(
    {
        "name": "m",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [{"format": "f", "engine": "e", "source": {"kind": "local"}}],
    }
)


class Client:
    """The other end of a request: sends messages one by one, keeps what comes back."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self._left = asyncio.Event()
        self.received: list[Message] = []

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.received.append(message)

    async def ask(self, handler: Handler, headers: dict[str, str] | None = None) -> None:
        raw = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": raw}
        loaded: Any = None
        await respond(Request(scope, self.receive, MODEL, Fronts(loaded)), handler, self.send)

    @property
    def status(self) -> int:
        return int(self.received[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.received[1:])


BODY: Message = {"type": "http.request", "body": b"{}", "more_body": False}


async def _whole(request: Request) -> Answer:
    return Answer(b"whole")


async def _surprised(request: Request) -> Answer:
    raise KeyError("a secret")


def _broken_stream(error: Exception, *, events: bool) -> Handler:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        raise error

    async def handler(request: Request) -> Stream:
        return Stream(chunks(), events=events)

    return handler


async def test_an_unforeseen_error_is_a_500_without_its_text() -> None:
    client = Client(BODY)
    await client.ask(_surprised)
    assert client.status == 500
    assert json.loads(client.body)["error"]["type"] == "server_error"
    assert b"secret" not in client.body


@pytest.mark.parametrize("error", [EngineError("the engine is out of breath"), KeyError("a secret")])
async def test_a_stream_of_events_tells_its_error_as_the_last_event(error: Exception) -> None:
    client = Client(BODY)
    await client.ask(_broken_stream(error, events=True))
    first, last = client.body.split(b"\n\n")[:2]
    assert first == b"data: 1"
    assert set(json.loads(last.removeprefix(b"data: "))["error"]) == {"message", "type", "param", "code"}
    assert b"secret" not in client.body and b"DONE" not in client.body
    assert client.received[-1].get("more_body", False) is False


async def test_another_stream_is_broken_off() -> None:
    client = Client(BODY)
    with pytest.raises(StreamBroken):
        await client.ask(_broken_stream(EngineError("out of breath"), events=False))
    assert client.received[-1]["more_body"] is True


async def test_a_client_that_leaves_takes_its_request_along() -> None:
    client = Client(BODY)
    ended = asyncio.Event()

    async def endless(request: Request) -> Answer:
        client.leave()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Answer(b"")

    async with asyncio.timeout(5):
        await client.ask(endless)
    assert ended.is_set() and not client.received


async def test_a_client_that_leaves_while_sending_is_not_answered() -> None:
    client = Client({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})
    await client.ask(_whole)
    assert not client.received


async def test_a_body_is_refused_before_it_is_read() -> None:
    client = Client(BODY)
    await client.ask(_whole, {"content-length": str(10**12)})
    assert client.status == 413
