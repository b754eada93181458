"""Routes of a dialect at the gateway: whatever fails there is told in the dialect's own words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ekiben.errors import ModelNotReady
from ekiben.gateway.inference import PATHS
from ekiben.plugins.dialects import load_dialects
from ekiben.plugins.discovery import BrokenPlugin, Plugins, discover
from tests.integration.gateway_lab import (
    CHUNKED_END,
    SSE_HEAD,
    Lab,
    Response,
    answer_bytes,
    answer_json,
    chat_body,
    chunked,
    delta,
    running_lab,
    until,
)

PATH = "/v1/messages"
KEY = "a-key"
EVENT = b'event: message_start\ndata: {"type": "message_start"}\n\n'
STOP = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'


@asynccontextmanager
async def speaking(**flags: Any) -> AsyncIterator[Lab]:
    spoken = load_dialects(discover(), taken=PATHS, targets=PATHS)
    async with running_lab(spoken=spoken, **flags) as lab:
        yield lab


async def ask(lab: Lab, *, path: str = PATH, headers: dict[str, str] | None = None, **more: Any) -> Response:
    return await lab.ask("POST", path, chat_body(**more), headers)


def told(response: Response) -> tuple[int, str]:
    value = response.json()
    assert set(value) == {"type", "error", "request_id"}
    assert value["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    return response.status, value["error"]["type"]


async def test_answers_pass_and_the_id_is_told_twice() -> None:
    async with speaking() as lab:
        lab.replica.script = answer_json({"type": "message"})
        response = await ask(lab, headers={"x-request-id": "req_mine"})
        assert (response.status, response.json()) == (200, {"type": "message"})
        assert response.headers["request-id"] == response.headers["x-request-id"] == "req_mine"
        assert lab.replica.seen[0].head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
        assert lab.fleet.prefixes[0]


async def test_the_key_may_come_in_the_dialect_s_header() -> None:
    async with speaking(api_key=KEY) as lab:
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert (await ask(lab, headers=headers)).status == 200
        for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": "", "authorization": "Bearer wrong"}):
            assert told(await ask(lab, headers=headers)) == (401, "authentication_error")
        response = await lab.chat(headers={"x-api-key": KEY})
        assert (response.status, response.error()["code"]) == (401, "invalid_api_key")


async def test_errors_of_the_gateway_itself() -> None:
    async with speaking() as lab:
        assert told(await ask(lab, model="no-such")) == (404, "not_found_error")
        assert told(await ask(lab, model=None)) == (400, "invalid_request_error")
        assert told(await ask(lab, model="piper-en-us-joe")) == (400, "invalid_request_error")
        assert told(await lab.ask("GET", PATH)) == (405, "invalid_request_error")
        response = await lab.ask("POST", PATH, b"{}", {"content-type": "text/plain"})
        assert told(response) == (415, "invalid_request_error")
        lab.fleet.error = ModelNotReady("not yet", retry_after_s=7)
        response = await ask(lab)
        assert told(response) == (503, "overloaded_error")
        assert response.headers["retry-after"] == "7"


async def test_errors_of_the_replica_pass_as_they_are() -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "m"}, "request_id": "r"}
    async with speaking() as lab:
        lab.replica.script = answer_json(error, status=400)
        response = await ask(lab)
        assert (response.status, response.json()) == (400, error)
        lab.replica.script = answer_bytes(b"HTTP/1.1 500 X\r\ncontent-length: 5\r\n\r\nsorry")
        assert told(await ask(lab)) == (502, "api_error")


async def test_a_stream_needs_no_done() -> None:
    async with speaking() as lab:
        lab.replica.script = answer_bytes(SSE_HEAD, chunked(EVENT), chunked(STOP), CHUNKED_END)
        response = await ask(lab, stream=True)
        assert (response.status, response.body, response.cut) == (200, EVENT + STOP, False)


async def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    async with speaking() as lab:
        lab.replica.script = answer_bytes(SSE_HEAD, chunked(EVENT + b"event: mess"), close=True)
        response = await ask(lab, stream=True)
        head, name, data = response.body.removeprefix(EVENT).partition(b"event: error\ndata: ")
        assert (head, name != b"") == (b"", True)
        value = json.loads(data)
        assert (value["type"], value["error"]["type"]) == ("error", "api_error")


async def test_comments_keep_a_waiting_stream_alive_and_errors_come_as_events() -> None:
    error = b'{"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}'
    async with speaking(heartbeat_s=0.02) as lab:
        lab.fleet.ready.clear()
        head = b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(error)
        lab.replica.script = answer_bytes(head + error)
        client = await lab.client()
        await client.send("POST", PATH, chat_body(stream=True))
        status, _ = await client.head()
        assert status == 200
        chunks = client.chunks()
        assert (await anext(chunks)).startswith(b": ekiben ")
        lab.fleet.ready.set()
        rest = b"".join([chunk async for chunk in chunks])
        assert rest.endswith(b"event: error\ndata: " + error + b"\n\n")
        client.hang_up()


async def test_an_openai_stream_that_tells_its_error_is_told_no_second_one() -> None:
    error = b'data: {"error": {"message": "m", "type": "server_error", "param": null, "code": null}}\n\n'
    async with running_lab() as lab:
        for pieces in ((delta("a"), error), (delta("a") + error,)):
            lab.replica.script = answer_bytes(
                SSE_HEAD, *(chunked(piece) for piece in pieces), CHUNKED_END, pause=True
            )
            response = await lab.chat(stream=True)
            assert response.body == delta("a") + error
        await until(lambda: not lab.fleet.leases)


def test_a_dialect_that_takes_others_paths_is_not_spoken() -> None:
    assert load_dialects(discover(), taken={*PATHS, PATH}, targets=PATHS) == []
    assert load_dialects(discover(), taken=PATHS, targets={"/v1/embeddings"}) == []
    assert load_dialects(Plugins({}, (BrokenPlugin("x", "y", "z"),)), taken=PATHS, targets=PATHS) == []
