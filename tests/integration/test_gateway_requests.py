"""Requests that are ended by their id: the replica sees it, and the client that waits is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from ekiben.gateway.inference import PATHS
from ekiben.plugins.dialects import load_dialects
from ekiben.plugins.discovery import discover
from tests.integration.gateway_lab import (
    CHAT,
    SSE_HEAD,
    Client,
    Lab,
    answer_then_hang,
    chat_body,
    chunked,
    delta,
    running_lab,
    until,
)

FREED_S = 1.0
"""How soon the replica must see it."""


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    spoken = load_dialects(discover(), taken=PATHS, targets=PATHS)
    async with running_lab(spoken=spoken) as lab:
        yield lab


async def begin(lab: Lab, *, request_id: str = "req_1", path: str = "/v1/chat/completions") -> Client:
    client = await lab.client()
    await client.send("POST", path, chat_body(stream=True), {"x-request-id": request_id})
    return client


async def cancel(lab: Lab, request_id: str = "req_1") -> int:
    response = await lab.ask("POST", f"/api/requests/{request_id}/cancel", b"")
    assert response.status == 200
    assert response.json()["id"] == request_id
    return int(response.json()["cancelled"])


@pytest.mark.parametrize("streamed", [True, False])
async def test_before_the_answer_begins(lab: Lab, streamed: bool) -> None:
    lab.replica.script = answer_then_hang()
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=streamed), {"x-request-id": "req_1"})
    await lab.replica.arrived.wait()
    assert await cancel(lab) == 1
    async with asyncio.timeout(FREED_S):
        await lab.replica.seen[0].closed.wait()
        response = await client.response()
    error = response.error()
    assert (response.status, error["code"], error["type"]) == (
        499,
        "request_cancelled",
        "invalid_request_error",
    )
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"] == "req_1"
    await lab.settled()
    assert lab.fleet.died == []
    client.hang_up()


async def test_in_the_middle_of_a_stream(lab: Lab) -> None:
    lab.replica.script = answer_then_hang(SSE_HEAD, chunked(delta("a")))
    client = await begin(lab)
    await client.head()
    chunks = client.chunks()
    assert await anext(chunks) == delta("a")
    assert await cancel(lab) == 1
    async with asyncio.timeout(FREED_S):
        await lab.replica.seen[0].closed.wait()
        rest = b"".join([chunk async for chunk in chunks])
    assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "request_cancelled"
    await lab.settled()
    client.hang_up()


async def test_a_dialect_s_client_is_told_in_its_words(lab: Lab) -> None:
    start = b'event: message_start\ndata: {"type": "message_start"}\n\n'
    lab.replica.script = answer_then_hang(SSE_HEAD, chunked(start))
    client = await begin(lab, path="/v1/messages")
    await client.head()
    chunks = client.chunks()
    assert await anext(chunks) == start
    assert await cancel(lab) == 1
    rest = b"".join([chunk async for chunk in chunks])
    assert rest.startswith(b'event: error\ndata: {"type": "error"')
    client.hang_up()


async def test_while_it_waits_for_its_model(lab: Lab) -> None:
    lab.fleet.ready.clear()
    client = await begin(lab)
    await until(lambda: lab.fleet.acquired == 1)
    assert await cancel(lab) == 1
    response = await client.response()
    assert (response.status, response.error()["code"]) == (499, "request_cancelled")
    assert (lab.fleet.withdrawn, lab.replica.seen) == (1, [])
    client.hang_up()


async def test_all_requests_of_an_id_and_no_others(lab: Lab) -> None:
    lab.replica.script = answer_then_hang()
    clients = [await begin(lab, request_id=name) for name in ("twin", "twin", "other")]
    await until(lambda: len(lab.replica.seen) == 3)
    listed = (await lab.ask("GET", "/api/requests")).json()["requests"]
    assert [(each["id"], each["route"], each["model"], each["answering"]) for each in listed] == [
        (name, "/v1/chat/completions", CHAT, False) for name in ("twin", "twin", "other")
    ]
    assert all(each["age_s"] >= 0 for each in listed)
    assert await cancel(lab, "twin") == 2
    listed = (await lab.ask("GET", "/api/requests")).json()["requests"]
    assert [each["id"] for each in listed if each["id"] != "twin"] == ["other"]
    assert await cancel(lab, "other") == 1
    for client in clients:
        assert (await client.response()).status == 499
        client.hang_up()


async def test_ids_of_nobody(lab: Lab) -> None:
    for request_id in ("req_of_nobody", "%2e%2e", "x" * 200):
        response = await lab.ask("POST", f"/api/requests/{request_id}/cancel", b"")
        assert (response.status, response.error()["code"]) == (404, "not_found")
    assert (await lab.ask("GET", "/api/requests")).json() == {"requests": []}
