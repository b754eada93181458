"""Requests that are wrong in every way: each gets its envelope, and the gateway is healthy after."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from ekiben.gateway.http.protocol import HttpProtocol
from ekiben.gateway.http.watchdog import Patience
from tests.integration.gateway_lab import (
    CHAT,
    VOICE,
    WHISPER,
    Lab,
    chat_body,
    chunked,
    running_lab,
)

FORM = {"content-type": "multipart/form-data; boundary=xyz"}
LIMIT = 2 * 2**20


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab(max_body_bytes=LIMIT) as lab:
        yield lab
        assert (await lab.chat()).status == 200, "healthy after"


def part(name: str, value: bytes = b"x", *, more: str = "") -> bytes:
    return f'--xyz\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b'{"model": "x"', None),
        (b"[]", None),
        (b'"text"', None),
        (b"1", None),
        (b"null", None),
        (b'{"model": NaN}', None),
        (b'{"model": "smollm2-135m-instruct", "a": NaN}', None),
        (b'{"model": "\xff\xfe"}', None),
        (b'{"model": "\\ud800"}', None),
        (b"[" * 100_000, None),
        (b'{"model":' * 100_000, None),
        (b'{"a":' + b"[" * 100_000, None),
        (b"{}", "model"),
        (b'{"model": null}', "model"),
        (b'{"model": 1}', "model"),
        (b'{"model": ["a"]}', "model"),
        (b'{"model": {"a": 1}}', "model"),
        (b'{"model": "smollm2-135m-instruct", "stream": "yes"}', "stream"),
        (b'{"model": "smollm2-135m-instruct", "stream": 1}', "stream"),
        (json.dumps({"model": VOICE}).encode(), "model"),
    ],
)
async def test_a_body_that_is_not_a_request_is_400(lab: Lab, body: bytes, param: str | None) -> None:
    response = await lab.ask("POST", "/v1/chat/completions", body)
    assert response.status == 400
    error = response.error()
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert lab.fleet.acquired == 0


@pytest.mark.parametrize(
    "model",
    [
        "nope",
        "",
        " ",
        "a\nb",
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://host/x",
        "x" * 10_000,
        "\x00",
        "名",
    ],
)
async def test_an_unknown_model_is_404_and_no_label(lab: Lab, model: str) -> None:
    response = await lab.chat(model=model)
    assert response.status == 404
    error = response.error()
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert len(error["message"]) < 300
    assert lab.fleet.acquired == 0
    assert b'model="unknown",route="/v1/chat/completions",status="404"} 1.0' in lab.metrics.render()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/chat/completions", {"content-type": "text/plain"}, 415),
        ("/v1/chat/completions", {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("/v1/chat/completions", {"content-type": ""}, 415),
        ("/v1/chat/completions", FORM, 415),
        ("/v1/chat/completions", {"content-encoding": "gzip"}, 415),
        ("/v1/audio/transcriptions", {}, 415),
        ("/v1/audio/transcriptions", {"content-type": "multipart/form-data"}, 400),
        ("/v1/audio/transcriptions", {"content-type": "multipart/form-data; boundary="}, 400),
        ("/v1/audio/transcriptions", {"content-type": "multipart/form-data; boundary=a; boundary=b"}, 400),
        ("/v1/audio/transcriptions", {"content-type": "multipart/form-data; boundary=" + "-" * 5000}, 400),
        ("/api/models", {"content-type": "text/plain"}, 415),
    ],
)
async def test_a_wrong_content_type_is_refused(
    lab: Lab, path: str, headers: dict[str, str], status: int
) -> None:
    response = await lab.ask("POST", path, chat_body(), headers)
    assert response.status == status
    response.error()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"garbage", 400),
        (part("model", WHISPER.encode()), 400),  # no final boundary
        (part("file") + b"--xyz--\r\n", 400),  # no model
        (part("model") + part("model") + b"--xyz--\r\n", 400),
        (part("model", b"\xff") + b"--xyz--\r\n", 400),
        (part("model", b"x" * 5000) + b"--xyz--\r\n", 400),
        (part("p") * 10_000 + b"--xyz--\r\n", 400),
        (part("model", WHISPER.encode(), more='; filename="../../x"') + b"--xyz--\r\n", 400),
        (b"--xyz\r\n" + b"a: b\r\n" * 1000 + b"\r\n\r\n--xyz--\r\n", 400),
        (b"--xyz\r\nx: " + b"y" * 100_000 + b"\r\n\r\n--xyz--\r\n", 400),
        (part("model", b"nope") + b"--xyz--\r\n", 404),
        (part("model", CHAT.encode()) + b"--xyz--\r\n", 400),  # cannot transcribe
    ],
)
async def test_a_broken_form_is_refused(lab: Lab, body: bytes, status: int) -> None:
    response = await lab.ask("POST", "/v1/audio/transcriptions", body, FORM)
    assert response.status == status
    response.error()
    assert lab.fleet.acquired == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1//chat/completions"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat%2fcompletions"),
        ("POST", "/v1/chat/completions%00"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/v1/x/../chat/completions"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/.."),
        ("GET", "/v1/models/a/../b"),
        ("GET", "/v1/models/a%2f..%2fb"),
        ("GET", "/v1/models/..;/"),
        ("GET", "/v1/models/a//b"),
        ("GET", "/v1/models/nope"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/livez/"),
        ("GET", "/api"),
        ("GET", "/metrics/x"),
        ("GET", "/api/models/nope/log"),
        ("POST", "/api/models/nope/load"),
        ("GET", "/api/replicas/nope/log"),
    ],
)
async def test_what_is_not_in_the_table_is_404(lab: Lab, method: str, path: str) -> None:
    response = await lab.ask(method, path, chat_body() if method == "POST" else None)
    assert response.status == 404
    response.error()


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/api/models", "GET, POST"),
        ("PATCH", f"/api/models/{CHAT}", "DELETE, GET"),
        ("GET", f"/api/models/{CHAT}/load", "POST"),
        ("DELETE", "/", "GET"),
    ],
)
async def test_a_wrong_method_is_405(lab: Lab, method: str, path: str, allow: str) -> None:
    response = await lab.ask(method, path)
    assert (response.status, response.headers["allow"]) == (405, allow)
    assert response.error()["code"] == "method_not_allowed"


async def test_head_is_405_without_a_body(lab: Lab) -> None:
    client = await lab.client()
    await client.send("HEAD", "/v1/models")
    assert (await client.head())[0] == 405
    client.hang_up()


async def test_a_declared_size_over_the_limit_is_refused_unread(lab: Lab) -> None:
    client = await lab.client()
    headers = {"content-length": str(LIMIT + 1), "expect": "100-continue"}
    await client.send("POST", "/v1/chat/completions", b"", headers)
    response = await client.response()
    assert response.status == 413
    assert response.error()["code"] == "request_too_large"
    assert await client.dropped()
    client.hang_up()


@pytest.mark.parametrize("lying", [False, True])
async def test_a_body_over_the_limit_is_refused_while_the_client_still_sends(lab: Lab, lying: bool) -> None:
    before = psutil.Process().memory_info().rss
    client = await lab.client()
    declared = {"transfer-encoding": "chunked"} if lying else {"content-length": str(8 * 2**20)}
    await client.send("POST", "/v1/chat/completions", None, {"content-type": "application/json"} | declared)
    for _ in range(8):
        piece = b" " * 2**20
        client.writer.write(chunked(piece) if lying else piece)
        await client.writer.drain()
    response = await client.response()  # though the body has not ended
    assert response.status == 413
    assert psutil.Process().memory_info().rss - before < 40 * 2**20
    client.hang_up()


async def test_json_has_a_limit_of_its_own() -> None:
    async with running_lab() as lab:
        client = await lab.client()
        headers = {"content-length": str(33 * 2**20), "expect": "100-continue"}
        await client.send("POST", "/v1/chat/completions", b"", headers)
        assert (await client.response()).status == 413
        client.hang_up()


async def test_a_body_that_drips_is_408() -> None:
    async with running_lab(patience=Patience(body_s=0.2, sweep_s=0.05)) as lab:
        client = await lab.client()
        await client.send("POST", "/v1/chat/completions", b"{", {"content-length": "100"})
        response = await client.response()
        assert response.status == 408
        response.error()
        client.hang_up()


async def test_a_head_that_never_ends_is_dropped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "head_timeout_s", 0.1)
    silent, slow = await lab.client(), await lab.client()
    slow.writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n")
    assert await silent.dropped()
    assert await slow.dropped()
    for client in (silent, slow):
        client.hang_up()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS"),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nhost: a\r\n" + b"x-a: b\r\n" * 10_000 + b"\r\n", id="many headers"
        ),
        pytest.param(b"GET /livez HTTP/1.1\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", id="large header"),
        pytest.param(b"GET /" + b"y" * 200_000 + b" HTTP/1.1\r\n\r\n", id="large target"),
        pytest.param(
            b"POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length and chunked",
        ),
        pytest.param(
            b"POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            id="two lengths",
        ),
        pytest.param(b"GET /livez HTTP/1.1\r\nhost : a\r\n\r\n", id="space before colon"),
        pytest.param(b"GET /livez HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n", id="folded header"),
    ],
)
async def test_what_is_not_http_gets_an_envelope_and_is_dropped(lab: Lab, raw: bytes) -> None:
    client = await lab.client()
    client.writer.write(raw)
    response = await client.response()
    assert response.status == 400
    response.error()
    assert await client.dropped()
    client.hang_up()


async def test_pipelined_requests_are_answered_in_order(lab: Lab) -> None:
    client = await lab.client()
    client.writer.write(
        b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /nope HTTP/1.1\r\nhost: localhost\r\n\r\n"
    )
    assert [(await client.response()).status for _ in range(2)] == [200, 404]
    client.hang_up()


async def test_an_upgrade_is_not_followed(lab: Lab) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "a",
        "sec-websocket-version": "13",
    }
    response = await lab.ask("GET", "/v1/models", None, upgrade)
    assert response.status in (400, 403)


async def test_a_full_disk_is_told_and_nothing_else_breaks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/full/nowhere")
    response = await lab.chat(padding="x" * 1_500_000)
    assert response.status == 503
    assert "cannot be kept" in response.error()["message"]
    monkeypatch.undo()


async def test_an_unexpected_error_is_500_without_its_trace(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(count: int) -> None:
        raise ZeroDivisionError("canary")

    lab.fleet.on_acquire = fail
    response = await lab.chat()
    lab.fleet.on_acquire = None
    assert response.status == 500
    error = response.error()
    assert response.headers["x-request-id"] in error["message"]
    assert "canary" not in error["message"]
    assert "ZeroDivisionError" in caplog.text


async def test_each_failed_request_is_one_line_without_its_content(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ekiben")
    await lab.ask(
        "POST", "/v1/chat/completions", b'{"canary-prompt": ', {"authorization": "Bearer canary-key"}
    )
    await lab.ask("GET", "/canary-path")
    assert (await lab.chat()).status == 200
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("ekiben.gateway")]
    assert len(lines) == 2
    assert all("canary" not in line and "\n" not in line for line in lines)
    assert "status=400" in lines[0] and "route=/v1/chat/completions" in lines[0]
    assert "status=404" in lines[1] and "route=unmatched" in lines[1]


async def test_nothing_is_left_on_disk(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for padding in ("x" * 1_500_000, "x"):
        assert (await lab.chat(padding=padding)).status == 200
        assert (await lab.chat(padding=padding, model="nope")).status == 404
    assert list(tmp_path.iterdir()) == []
    await lab.settled()
    deleted = [file for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))]
    assert deleted == []
