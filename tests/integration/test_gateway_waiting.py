"""Requests for cold models: held, kept alive, answered or told when to come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from ekiben.errors import LoadFailed, QueueFull
from ekiben.fleet.types import Address
from tests.integration.gateway_lab import (
    CHAT,
    CHUNKED_END,
    DONE,
    SSE_HEAD,
    Client,
    Lab,
    answer_bytes,
    answer_json,
    chat_body,
    chunked,
    delta,
    running_lab,
)

BEAT_S = 0.05
STREAM = answer_bytes(SSE_HEAD, chunked(delta("hi") + DONE), CHUNKED_END)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab(heartbeat_s=BEAT_S) as lab:
        lab.replica.script = STREAM
        yield lab


async def first_chunks(client: Client, count: int) -> list[bytes]:
    chunks = client.chunks()
    return [await anext(chunks) for _ in range(count)]


async def test_a_waiting_stream_gets_comments_and_then_its_answer(lab: Lab) -> None:
    lab.fleet.ready.clear()
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    status, headers = await client.head()
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    chunks = client.chunks()
    assert [await anext(chunks) for _ in range(3)] == [b": ekiben loading the model 25%\n\n"] * 3
    lab.fleet.ready.set()
    rest = b"".join([chunk async for chunk in chunks])
    assert rest.endswith(delta("hi") + DONE)
    client.hang_up()


async def test_comments_go_on_until_the_model_begins_to_answer(lab: Lab) -> None:
    go_on = asyncio.Event()

    async def script(seen: object, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(SSE_HEAD + chunked(delta("hi") + DONE) + CHUNKED_END)

    lab.replica.script = script
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    await client.head()
    assert len(await first_chunks(client, 2)) == 2
    go_on.set()
    client.hang_up()


async def test_the_sdk_reads_over_the_comments(lab: Lab) -> None:
    lab.fleet.ready.clear()
    asyncio.get_running_loop().call_later(4 * BEAT_S, lab.fleet.ready.set)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{lab.port}/v1", api_key="x") as client:
        stream = await client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["hi"]


async def test_an_error_after_the_first_comment_is_told_in_the_stream(lab: Lab) -> None:
    lab.fleet.ready.clear()
    lab.fleet.error = LoadFailed("the file is broken")
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    await client.head()
    chunks = client.chunks()
    await anext(chunks)
    lab.fleet.ready.set()
    rest = b"".join([chunk async for chunk in chunks])
    event = rest.split(b"\n\n")[-2]
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "the file is broken"
    assert b"[DONE]" not in rest
    client.hang_up()


async def test_a_replicas_error_after_the_first_comment_is_told_in_the_stream(lab: Lab) -> None:
    error = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "x"}}
    lab.replica.script = answer_json(error, status=400)
    lab.fleet.ready.clear()
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    await client.head()
    chunks = client.chunks()
    await anext(chunks)
    lab.fleet.ready.set()
    rest = b"".join([chunk async for chunk in chunks])
    assert json.loads(rest.split(b"\n\n")[-2].removeprefix(b"data: ")) == error
    assert b'status="400"' in lab.metrics.render()
    client.hang_up()


async def test_an_answer_that_is_not_streamed_is_held_in_silence(lab: Lab) -> None:
    lab.replica.script = answer_json({"ok": True})
    lab.fleet.ready.clear()
    asyncio.get_running_loop().call_later(4 * BEAT_S, lab.fleet.ready.set)
    response = await lab.chat()
    assert (response.status, response.json()) == (200, {"ok": True})


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_that_is_certain_at_once_has_its_own_status(lab: Lab, stream: bool) -> None:
    lab.fleet.error = QueueFull("1024 requests are waiting", retry_after_s=3)
    response = await lab.chat(stream=stream)
    assert response.status == 429
    assert response.headers["retry-after"] == "3"
    assert response.error()["code"] == "queue_full"


async def test_a_wait_that_outlives_its_budget_says_how_far_the_model_is() -> None:
    async with running_lab(wait_s=0.1) as lab:
        lab.fleet.ready.clear()
        response = await lab.chat()
        assert response.status == 503
        assert response.headers["retry-after"] == "7"
        error = response.error()
        assert error["code"] == "model_not_ready"
        assert (error["state"], error["stage"], error["progress"]) == ("loading", "loading the model", 0.25)
        assert error.keys() >= {"eta_s"}


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("20", 18, 19.5),
        ("3", 2, 2.6),
        ("0.2", 0.05, 0.2),
        ("100000", 600, 600),
        ("nan", 600, 600),
        ("-1", 600, 600),
        ("soon", 600, 600),
    ],
)
async def test_a_client_is_answered_before_it_gives_up(
    lab: Lab, header: str, low: float, high: float
) -> None:
    await lab.chat(headers={"x-stainless-read-timeout": header})
    (wait_s,) = lab.fleet.waits
    assert wait_s is not None and low <= wait_s <= high


async def test_the_first_of_two_time_outs_counts(lab: Lab) -> None:
    await lab.chat(headers={"x-stainless-timeout": "20", "x-stainless-read-timeout": "600"})
    await lab.chat(headers={"x-stainless-timeout": "20"})
    assert [18 <= (wait_s or 0) <= 19.5 for wait_s in lab.fleet.waits] == [True, True]


async def test_a_second_attempt_has_only_what_is_left_of_the_wait(lab: Lab) -> None:
    lab.replica.script = answer_json({"ok": True})
    real = lab.fleet.address

    def take_away(acquired: int) -> None:
        lab.fleet.address = Address("unix", "/nowhere") if acquired == 1 else real

    lab.fleet.on_acquire = take_away
    response = await lab.chat(headers={"x-stainless-read-timeout": "20"})
    assert response.status == 200
    first_s, second_s = lab.fleet.waits
    assert first_s is not None and second_s is not None and second_s < first_s


async def test_a_request_whose_client_would_have_given_up_reaches_no_replica(lab: Lab) -> None:
    lab.replica.script = answer_json({"ok": True})
    lab.fleet.ready.clear()
    late = await lab.chat(headers={"x-stainless-read-timeout": "0.2"})
    assert late.status == 503 and int(late.headers["retry-after"]) >= 1
    assert late.error()["stage"] == "loading the model"
    lab.fleet.ready.set()
    assert (await lab.chat(mark="next")).status == 200
    assert [json.loads(seen.body).get("mark") for seen in lab.replica.seen] == ["next"]


async def test_a_stream_outlives_its_read_time_out_by_comments(lab: Lab) -> None:
    lab.fleet.ready.clear()
    client = await lab.client()
    await client.send(
        "POST", "/v1/chat/completions", chat_body(stream=True), {"x-stainless-read-timeout": "0.2"}
    )
    await client.head()
    chunks = client.chunks()
    for _ in range(8):  # two time-outs long, one comment at a time
        assert (await anext(chunks)).startswith(b": ekiben")
    lab.fleet.ready.set()
    assert b"".join([chunk async for chunk in chunks]).endswith(delta("hi") + DONE)
    (wait_s,) = lab.fleet.waits
    assert wait_s == 600
    client.hang_up()


async def test_comments_come_faster_than_an_impatient_client_gives_up() -> None:
    async with running_lab(heartbeat_s=3600) as lab:
        lab.fleet.ready.clear()
        client = await lab.client()
        headers = {"x-stainless-read-timeout": "0.2"}
        await client.send("POST", "/v1/chat/completions", chat_body(stream=True), headers)
        async with asyncio.timeout(1):
            await client.head()
            await first_chunks(client, 2)
        client.hang_up()
