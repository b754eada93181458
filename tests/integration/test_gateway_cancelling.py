"""Clients that leave: the replica sees it, the lease comes back, nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gateway_lab import (
    CHUNKED_END,
    DONE,
    SSE_HEAD,
    VOICE,
    Client,
    Lab,
    answer_bytes,
    answer_json,
    answer_then_hang,
    chat_body,
    chunked,
    delta,
    running_lab,
    until,
)

CLOSE_S = 1.0
"""How soon a replica must see that its client has left."""
AUDIO_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


async def leave(client: Client, *, politely: bool) -> None:
    """FIN or RST."""
    if politely:
        client.writer.close()
        await client.writer.wait_closed()
    else:
        client.hang_up()


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_byte_cancels(lab: Lab, stream: bool, politely: bool) -> None:
    lab.replica.script = answer_then_hang()
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=stream))
    await lab.replica.arrived.wait()
    await leave(client, politely=politely)
    async with asyncio.timeout(CLOSE_S):
        await lab.replica.seen[0].closed.wait()
        await lab.settled()
    assert lab.fleet.acquired == 1
    assert lab.fleet.died == []


@pytest.mark.parametrize("politely", [True, False])
async def test_leaving_in_the_middle_of_a_stream_cancels(lab: Lab, politely: bool) -> None:
    lab.replica.script = answer_then_hang(SSE_HEAD, chunked(delta("one")))
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    await client.head()
    await anext(client.chunks())
    await leave(client, politely=politely)
    async with asyncio.timeout(CLOSE_S):
        await lab.replica.seen[0].closed.wait()
        await lab.settled()


async def test_leaving_in_the_middle_of_audio_cancels(lab: Lab) -> None:
    lab.replica.script = answer_then_hang(AUDIO_HEAD, chunked(b"RIFF"))
    client = await lab.client()
    body = json.dumps({"model": VOICE, "input": "hi"}).encode()
    await client.send("POST", "/v1/audio/speech", body)
    await client.head()
    await leave(client, politely=True)
    async with asyncio.timeout(CLOSE_S):
        await lab.replica.seen[0].closed.wait()
        await lab.settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_waiting_withdraws(lab: Lab, stream: bool) -> None:
    lab.fleet.ready.clear()
    asked = asyncio.Event()
    lab.fleet.on_acquire = lambda _: asked.set()
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=stream))
    await asked.wait()
    client.hang_up()
    async with asyncio.timeout(CLOSE_S):
        await lab.settled()
    assert lab.fleet.withdrawn == 1
    assert lab.replica.seen == []


async def test_leaving_while_sending_leaves_nothing(lab: Lab) -> None:
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", b"{", {"content-length": "5000000"})
    client.writer.write(b" " * 2_000_000)
    await client.writer.drain()
    client.hang_up()
    await lab.settled()
    assert lab.fleet.acquired == 0


async def test_a_client_that_does_not_read_slows_the_replica_and_can_still_leave(lab: Lab) -> None:
    written = 0

    async def script(seen: object, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(SSE_HEAD)
        while True:
            writer.write(chunked(delta("x" * 60_000)))
            await writer.drain()
            written += 60_000
            await asyncio.sleep(0)

    lab.replica.script = script
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    before = -1
    while written != before or not written:  # until nothing moves any more
        before = written
        await asyncio.sleep(0.2)
    assert written < 30 * 2**20
    client.hang_up()
    async with asyncio.timeout(CLOSE_S):
        await lab.replica.seen[0].closed.wait()
        await lab.settled()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.slow)])
async def test_a_hundred_clients_leaving_at_once_leave_nothing(
    lab: Lab, caplog: pytest.LogCaptureFixture, rounds: int
) -> None:
    before = open_files()
    caplog.set_level(logging.INFO, logger="ekiben.gateway")
    lab.replica.script = answer_then_hang(SSE_HEAD, chunked(delta("one")))
    for _ in range(rounds):
        clients = [await lab.client() for _ in range(100)]
        for number, client in enumerate(clients):
            await client.send("POST", "/v1/chat/completions", chat_body(stream=number % 2 == 0))
        await until(lambda: len(lab.fleet.leases) == 100)
        for client in clients:
            client.hang_up()
        async with asyncio.timeout(5):
            await asyncio.gather(*(seen.closed.wait() for seen in lab.replica.seen))
            await lab.settled()
        lab.replica.seen.clear()
    await until(lambda: open_files() <= before + 2)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [n for n in names if n.startswith(("watch", "heartbeat"))]
    assert sum("status=499" in record.getMessage() for record in caplog.records) == 100 * rounds
    labels = 'model="smollm2-135m-instruct",route="/v1/chat/completions",status="499"'
    assert f"ekiben_requests_total{{{labels}}} {100 * rounds}".encode() in lab.metrics.render()
    assert b"\nekiben_in_flight 0.0" in lab.metrics.render()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_has_said_its_last_word_still_gets_its_answer(lab: Lab, stream: bool) -> None:
    """C3: half closed, and listening."""
    go_on = asyncio.Event()
    whole = delta("one") + delta("", "stop") + DONE

    async def script(seen: object, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        if stream:
            await answer_bytes(SSE_HEAD, chunked(whole), CHUNKED_END)(seen, writer)  # type: ignore[arg-type]
        else:
            await answer_json({"object": "chat.completion"})(seen, writer)  # type: ignore[arg-type]

    lab.replica.script = script
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=stream))
    client.writer.write_eof()
    interim = 0
    for _ in range(3):  # it is asked more than once whether anybody listens
        interim += (await client.head())[0] == 100
    go_on.set()
    while (head := await client.head())[0] == 100:
        interim += 1
    assert (interim >= 3, head[0], head[1]["connection"]) == (True, 200, "close")
    if stream:
        assert b"".join([chunk async for chunk in client.chunks()]) == whole
    else:
        assert b"chat.completion" in await client.reader.read()
    assert await client.dropped()
    client.hang_up()


async def test_a_client_that_listened_for_a_while_can_still_leave(lab: Lab) -> None:
    """C3, then C1: nothing on the network tells that the other half is closed too, until it is written to."""
    lab.replica.script = answer_then_hang()
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body())
    client.writer.write_eof()
    for _ in range(2):
        assert (await client.head())[0] == 100
    client.hang_up()
    async with asyncio.timeout(2 * CLOSE_S):
        await lab.replica.seen[0].closed.wait()
        await lab.settled()


async def test_a_request_cut_in_half_is_not_waited_for(lab: Lab) -> None:
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", b"{", {"content-length": "100"})
    client.writer.write_eof()
    assert await client.dropped()
    client.hang_up()
    assert lab.fleet.acquired == 0
