"""What passes through the gateway: bytes unchanged, headers chosen, connections used again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.integration.gateway_lab import (
    CHAT,
    CHUNKED_END,
    DONE,
    SSE_HEAD,
    VOICE,
    WHISPER,
    Lab,
    answer_bytes,
    answer_json,
    chat_body,
    chunked,
    delta,
    running_lab,
)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


async def test_a_request_and_its_answer_keep_their_bytes(lab: Lab) -> None:
    sent = b'{ "messages" : [] ,\n "model":"smollm2-135m-instruct", "\\u0078": 1e2 }'
    response = await lab.ask("POST", "/v1/chat/completions", sent)
    assert lab.replica.seen[0].body == sent
    assert lab.replica.seen[0].head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert response.status == 200
    assert response.json() == {"object": "chat.completion"}
    assert response.headers["x-request-id"] == lab.replica.seen[0].headers["x-request-id"]
    assert response.headers["openai-version"] == "2020-10-01"
    assert int(response.headers["openai-processing-ms"]) >= 0
    assert "server" not in response.headers


async def test_a_replica_learns_nothing_of_keys_cookies_and_addresses(lab: Lab) -> None:
    private = {
        "authorization": "Bearer secret",
        "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4",
        "forwarded": "for=1.2.3.4",
        "x-internal-role": "admin",
        "accept-encoding": "gzip",
        "connection": "authorization",
    }
    passed = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "accept": "a/b"}
    await lab.chat(headers=private | passed)
    headers = lab.replica.seen[0].headers
    assert {name: headers[name] for name in passed} == passed
    assert headers.keys() <= {"host", "content-type", "content-length", "x-request-id", *passed}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc.DEF_1-2", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("10.0.0.1:80", False),
        ("a b", False),
        ("", False),
    ],
)
async def test_a_request_id_is_kept_or_minted(lab: Lab, given: str, kept: bool) -> None:
    response = await lab.chat(headers={"x-request-id": given})
    assert (response.headers["x-request-id"] == given) is kept
    assert lab.replica.seen[0].headers["x-request-id"] == response.headers["x-request-id"]


async def test_a_stream_is_identical_wherever_it_is_cut(lab: Lab) -> None:
    whole = delta("añ→😀") + delta("", "stop") + DONE
    for cut in range(1, len(whole)):
        lab.replica.script = answer_bytes(
            SSE_HEAD, chunked(whole[:cut]), chunked(whole[cut:]), CHUNKED_END, pause=True
        )
        response = await lab.chat(stream=True)
        assert response.body == whole, cut
        assert not response.cut
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    assert lab.replica.connections == 1


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([bytes([b]) for b in delta("hey") + DONE], id="one byte at a time"),
        pytest.param([b"".join(delta(str(i)) for i in range(1000)) + DONE], id="1000 events in one piece"),
        pytest.param([delta("x" * 2**22), DONE], id="one event of 4 MiB"),
        pytest.param([delta("a").replace(b"\n\n", b"\r\n\r\n"), b"data: [DONE]\r\n\r\n"], id="CRLF"),
        pytest.param([delta("a"), DONE, DONE], id="DONE twice"),
        pytest.param([b": ping\n\n", delta("a"), b"event: x\n", b"data: 1\n\n", DONE], id="comments"),
        pytest.param([delta("a"), b"data: [DONE]\n"], id="last newline missing"),
    ],
)
async def test_a_stream_of_any_shape_is_identical(lab: Lab, pieces: list[bytes]) -> None:
    lab.replica.script = answer_bytes(SSE_HEAD, *map(chunked, pieces), CHUNKED_END)
    response = await lab.chat(stream=True)
    assert response.body == b"".join(pieces)


async def test_the_first_event_does_not_wait_for_the_second(lab: Lab) -> None:
    go_on = asyncio.Event()

    async def script(seen: object, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(delta("one")))
        await go_on.wait()
        writer.write(chunked(DONE) + CHUNKED_END)

    lab.replica.script = script
    client = await lab.client()
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    await client.head()
    chunks = client.chunks()
    assert await anext(chunks) == delta("one")
    go_on.set()
    assert [chunk async for chunk in chunks] == [DONE]
    client.hang_up()


async def test_audio_passes_as_it_is_made(lab: Lab) -> None:
    audio = bytes(range(256)) * 2000
    lab.replica.script = answer_bytes(
        b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n",
        chunked(audio[:1000]),
        chunked(audio[1000:]),
        CHUNKED_END,
    )
    body = json.dumps({"model": VOICE, "input": "hi", "voice": "default"}).encode()
    response = await lab.ask("POST", "/v1/audio/speech", body)
    assert response.body == audio
    assert response.headers["content-type"] == "audio/wav"


def form(*parts: tuple[str, bytes, str | None], boundary: str = "xyz") -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    body = b""
    for name, value, filename in parts:
        extra = f'; filename="{filename}"' if filename else ""
        body += f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode()
        body += value + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize("size", [10, 2**20 + 1, 3 * 2**20])
@pytest.mark.parametrize("model_first", [True, False])
async def test_a_form_is_read_for_its_model_and_passed_on(lab: Lab, size: int, model_first: bool) -> None:
    file, model = ("file", b"\r\n--xy" * (size // 6), "a.wav"), ("model", WHISPER.encode(), None)
    body, headers = form(*((model, file) if model_first else (file, model)))
    response = await lab.ask("POST", "/v1/audio/transcriptions", body, headers)
    assert response.status == 200
    assert lab.replica.seen[0].body == body
    assert lab.replica.seen[0].headers["content-type"] == headers["content-type"]


async def test_a_chunked_request_is_passed_on_whole(lab: Lab) -> None:
    body = chat_body(padding="x" * 3_000_000)
    client = await lab.client()
    await client.send(
        "POST",
        "/v1/chat/completions",
        None,
        {"content-type": "application/json", "transfer-encoding": "chunked"},
    )
    for start in range(0, len(body), 100_000):
        client.writer.write(chunked(body[start : start + 100_000]))
    client.writer.write(CHUNKED_END)
    assert (await client.response()).status == 200
    assert lab.replica.seen[0].body == body
    assert lab.replica.seen[0].headers["content-length"] == str(len(body))
    client.hang_up()


async def test_a_connection_to_a_replica_is_used_again(lab: Lab) -> None:
    for _ in range(5):
        assert (await lab.chat()).status == 200
    assert lab.replica.connections == 1


async def test_a_connection_that_the_replica_closed_meanwhile_costs_nothing(lab: Lab) -> None:
    assert (await lab.chat()).status == 200
    await lab.settled()
    lab.replica.drop_connections()  # the gateway may not have noticed when the next request comes
    assert (await lab.chat()).status == 200
    assert lab.fleet.died == []


async def test_a_client_keeps_its_connection_after_errors(lab: Lab) -> None:
    client = await lab.client()
    for body, status in [(b"{", 400), (chat_body(), 200), (chat_body(model="nope"), 404), (chat_body(), 200)]:
        await client.send("POST", "/v1/chat/completions", body)
        assert (await client.response()).status == status
    client.hang_up()


async def test_a_replicas_own_error_passes_with_its_status(lab: Lab) -> None:
    error = {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": None}}
    lab.replica.script = answer_json(error, status=400)
    response = await lab.chat(stream=True)
    assert (response.status, response.json()) == (400, error)


@pytest.mark.parametrize(
    ("body", "status"), [({"error": "no"}, 500), ([{"error": "no"}], 400), ("plain", 503), ({}, 302)]
)
async def test_a_replicas_error_without_envelope_gets_one(lab: Lab, body: object, status: int) -> None:
    lab.replica.script = answer_json(body, status=status)
    response = await lab.chat()
    assert response.status == 502
    assert response.error()["code"] == "engine_error"


async def test_the_sdk_streams_and_does_not(lab: Lab) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{lab.port}/v1", api_key="x") as client:
        whole = {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": CHAT,
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
            ],
        }
        lab.replica.script = answer_json(whole)
        completion = await client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "hi"}]
        )
        assert completion.choices[0].message.content == "hi"
        assert completion._request_id == lab.replica.seen[0].headers["x-request-id"]
        lab.replica.script = answer_bytes(
            SSE_HEAD, chunked(delta("a") + delta("b") + delta("", "stop") + DONE), CHUNKED_END
        )
        stream = await client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert [c.choices[0].delta.content async for c in stream] == ["a", "b", ""]
        names = [model.id async for model in client.models.list()]
        assert CHAT in names and WHISPER in names
        assert (await client.models.retrieve(CHAT)).model_extra == {
            "state": "ready",
            "family": "llm",
            "abilities": ["chat", "complete"],
        }
