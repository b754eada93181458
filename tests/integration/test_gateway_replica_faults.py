"""Replicas that fail: the client gets a whole answer, a clear error, or a broken connection. Never a lie."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tracemalloc
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from ekiben.gateway.http.watchdog import Patience
from tests.integration.gateway_lab import (
    CHAT,
    CHUNKED_END,
    DONE,
    SSE_HEAD,
    VOICE,
    Lab,
    Script,
    Seen,
    answer_bytes,
    answer_json,
    answer_then_hang,
    chat_body,
    chunked,
    delta,
    running_lab,
)

PIECE_BYTES = 2**20
OK_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answer_bytes(close=True), id="dies before its head"),
        pytest.param(answer_bytes(b"HTTP/1.1 200 OK\r\ncont", close=True), id="dies in its head"),
        pytest.param(answer_bytes(b"\x00\x01garbage\r\n\r\n", close=True), id="garbage"),
        pytest.param(answer_bytes(b"HTTP/1.1 100 Continue\r\n\r\n"), id="interim answer"),
        pytest.param(answer_bytes(OK_HEAD + b"x-big: " + b"x" * 100_000 + b"\r\n\r\n"), id="endless header"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kept", [True, False])
async def test_a_replica_that_dies_before_it_answers(
    lab: Lab, script: Script, stream: bool, kept: bool
) -> None:
    if kept:  # over a connection that has served before
        assert (await lab.chat()).status == 200
    lab.replica.script = script
    response = await lab.chat(stream=stream)
    assert response.status == 502
    assert response.error()["code"] == "replica_died"
    await lab.settled()
    assert len(lab.fleet.died) == 1
    lab.replica.script = answer_json({})
    assert (await lab.chat()).status == 200


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        pytest.param([], b"", id="after the head"),
        pytest.param([delta("one")], delta("one"), id="between events"),
        pytest.param([delta("one"), delta("two")[:20]], delta("one"), id="in the middle of an event"),
        pytest.param(
            [delta("😀")[: delta("😀").index("😀".encode()) + 2]], b"", id="in the middle of a character"
        ),
        pytest.param([delta("a"), delta("", "stop")], delta("a") + delta("", "stop"), id="before DONE"),
        pytest.param([delta("a"), DONE[:9]], delta("a"), id="in the middle of DONE"),
    ],
)
@pytest.mark.parametrize("cleanly", [False, True])
async def test_a_stream_that_breaks_off_ends_in_an_error_and_never_in_done(
    lab: Lab, pieces: list[bytes], whole: bytes, cleanly: bool
) -> None:
    end = [CHUNKED_END] if cleanly else []
    lab.replica.script = answer_bytes(SSE_HEAD, *map(chunked, pieces), *end, close=not cleanly)
    response = await lab.chat(stream=True)
    assert not response.cut
    assert b"[DONE]" not in response.body
    assert response.body.startswith(whole)
    *_, last, rest = response.body.split(b"\n\n")
    assert rest == b""
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "replica_died"
    await lab.settled()
    assert len(lab.fleet.died) == 1
    if not cleanly:
        assert response.body[len(whole) :] == last + b"\n\n"  # half an event was not let through


async def test_the_sdk_raises_for_a_stream_that_breaks_off(lab: Lab) -> None:
    lab.replica.script = answer_bytes(SSE_HEAD, chunked(delta("a") + delta("b")[:30]), close=True)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{lab.port}/v1", api_key="x") as client:
        stream = await client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in stream:
                pass


async def test_an_event_too_large_to_hold_is_closed_before_the_error(lab: Lab) -> None:
    lab.replica.script = answer_bytes(SSE_HEAD, chunked(delta("x" * 300_000)[:-10]), close=True)
    response = await lab.chat(stream=True)
    first, error, rest = response.body.split(b"\n\n")
    assert b"replica_died" in error and rest == b"" and len(first) > 250_000


async def test_a_huge_event_passes_in_pieces(lab: Lab) -> None:
    """One of 64 MiB: whole with the client, never whole in the gateway."""
    event = [b'data: {"choices":[{"delta":{"content":"', *[b"x" * PIECE_BYTES] * 64, b'"}}]}\n\n']

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for piece in (*event, DONE):
            writer.write(chunked(piece))
            await writer.drain()
        writer.write(CHUNKED_END)

    lab.replica.script = script
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    assert (await client.head())[0] == 200
    told, size = hashlib.sha256(), 0
    tracemalloc.start()
    try:
        async for chunk in client.chunks():
            told.update(chunk)
            size += len(chunk)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        client.hang_up()
    assert size == 64 * PIECE_BYTES + sum(map(len, (event[0], event[-1], DONE)))
    assert told.digest() == hashlib.sha256(b"".join([*event, DONE])).digest()
    assert most_bytes < 16 * PIECE_BYTES


@pytest.mark.parametrize(
    "pieces",
    [
        [OK_HEAD + b"content-length: 100\r\n\r\n", b'{"half":'],
        [OK_HEAD + b"transfer-encoding: chunked\r\n\r\n", chunked(b'{"half":')],
        [OK_HEAD + b"transfer-encoding: chunked\r\n\r\n", b"zzz\r\n"],
    ],
)
async def test_a_body_that_breaks_off_is_not_passed_as_whole(lab: Lab, pieces: list[bytes]) -> None:
    lab.replica.script = answer_bytes(*pieces, close=True)
    response = await lab.chat()
    assert response.cut
    await lab.settled()
    assert len(lab.fleet.died) == 1


async def test_audio_that_breaks_off_is_not_passed_as_whole(lab: Lab) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n"
    lab.replica.script = answer_bytes(head, chunked(b"RIFF"), close=True)
    response = await lab.ask("POST", "/v1/audio/speech", json.dumps({"model": VOICE, "input": "hi"}).encode())
    assert response.cut


async def test_a_page_instead_of_an_answer_is_an_error(lab: Lab) -> None:
    lab.replica.script = answer_bytes(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"
    )
    response = await lab.chat(stream=True)
    assert response.status == 502
    assert response.error()["code"] == "engine_error"


async def test_a_replica_that_cannot_be_reached_is_tried_once_more_on_a_new_lease(lab: Lab) -> None:
    await lab.replica.stop()

    def come_back(count: int) -> None:
        if count == 2:
            lab.fleet.address = address

    address = lab.fleet.address
    moved = type(address)("unix", f"{lab.fleet.folder}/gone.sock")
    await lab.replica.start()
    lab.fleet.address = moved
    lab.fleet.on_acquire = come_back
    assert (await lab.chat()).status == 200
    assert lab.fleet.acquired == 2
    assert lab.fleet.died == [1]


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_a_replica_that_stays_away_is_an_error(lab: Lab, scheme: str) -> None:
    location = "127.0.0.1:1" if scheme == "tcp" else f"{lab.fleet.folder}/gone.sock"
    lab.fleet.address = type(lab.fleet.address)(scheme, location)
    response = await lab.chat()
    assert response.status == 502
    assert response.error()["code"] == "replica_died"
    assert response.headers["retry-after"] == "1"
    assert lab.fleet.acquired == 2


async def test_a_request_that_killed_its_replica_does_not_meet_another(lab: Lab) -> None:
    assert (await lab.chat()).status == 200  # the connection is kept

    async def die(seen: object, writer: asyncio.StreamWriter) -> None:
        assert lab.replica._server is not None
        lab.replica._server.close()
        writer.transport.abort()

    lab.replica.script = die
    response = await lab.chat()
    assert response.status == 502
    await lab.settled()
    assert lab.fleet.acquired == 2
    assert len(lab.replica.seen) == 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_replica_that_falls_silent_is_given_up(stream: bool) -> None:
    head = SSE_HEAD if stream else OK_HEAD + b"transfer-encoding: chunked\r\n\r\n"
    async with running_lab(patience=Patience(replica_s=0.2, sweep_s=0.05)) as lab:
        lab.replica.script = answer_then_hang(head, chunked(delta("one")))
        response = await lab.chat(stream=stream)
        if stream:
            assert response.body.startswith(delta("one"))
            assert b'"code":"engine_timeout"' in response.body
            assert b"[DONE]" not in response.body
        else:
            assert response.cut
        await lab.replica.seen[0].closed.wait()


async def test_a_client_that_never_reads_is_given_up() -> None:
    async with running_lab(patience=Patience(client_s=0.3, sweep_s=0.05)) as lab:
        flood = chunked(delta("x" * 60_000))
        lab.replica.script = answer_bytes(SSE_HEAD, *[flood] * 1000)
        client = await lab.client()
        await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
        await lab.replica.arrived.wait()
        await lab.settled()
        client.hang_up()
