"""Bad input, over HTTP and on the command line: a clear error each, nothing lost, and healthy after."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import wave
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
MODEL = "smollm2-135m-instruct"
GOOD: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say hi."}],
    "max_tokens": 4,
}


@pytest.fixture(scope="module")
def platform(make_platform: Callable[..., Any]) -> Any:
    env = {"EKIBEN_MAX_BODY_BYTES": str(4 * 2**20), "EKIBEN_FETCH_URLS": "true"}
    return make_platform(env=env).start()


@pytest.fixture(autouse=True)
def healthy_after(platform: Any) -> Iterator[None]:
    yield
    assert platform.get("/readyz")
    assert platform.process.poll() is None


def send(
    platform: Any,
    path: str,
    body: bytes | dict[str, Any],
    *,
    method: str = "POST",
    content_type: str = "application/json",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"content-type": content_type} | (headers or {}))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def form(fields: dict[str, str], files: dict[str, bytes]) -> tuple[bytes, str]:
    boundary = "----ekiben-test"
    parts = []
    for name, value in fields.items():
        parts.append(
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        )
    for name, data in files.items():
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"; filename="../../x"\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def assert_envelope(answer: dict[str, Any]) -> dict[str, Any]:
    error: dict[str, Any] = answer["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] is None or isinstance(error["code"], str)
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"12", 400),
        (b"null", 400),
        (b"[" * 10_000 + b"]" * 10_000, 400),
        (b'{"model": "x", "temperature": NaN}', 400),
        (b'{"model": 5}', 400),
        (b"{}", 400),
    ],
)
def test_broken_json(platform: Any, body: bytes, status: int) -> None:
    got, answer = send(platform, CHAT, body)
    assert got == status
    assert_envelope(answer)


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "a\nb",
        "x" * 10_000,
        "",
        "\u202e",
    ],
)
def test_unknown_model(platform: Any, name: str) -> None:
    status, answer = send(platform, CHAT, GOOD | {"model": name})
    error = assert_envelope(answer)
    assert (status, error["code"]) in ((404, "model_not_found"), (400, None))
    metrics = http_get(platform, "/metrics")
    assert "nobody" not in metrics


def http_get(platform: Any, path: str) -> str:
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": 5, "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 10**9}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"stop": ["x"] * 100_000}, "stop"),
        ({"stream": "yes"}, "stream"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
            "response_format",
        ),
    ],
)
def test_wrong_types_name_the_parameter(platform: Any, change: dict[str, Any], param: str) -> None:
    status, answer = send(platform, CHAT, GOOD | change)
    error = assert_envelope(answer)
    assert status == 400, answer
    assert (error["param"] or "").startswith(param), error


def test_replica_survived_all_that(platform: Any) -> None:
    status, answer = send(platform, CHAT, GOOD)
    assert status == 200, answer


def test_wrong_content_type(platform: Any) -> None:
    status, answer = send(platform, CHAT, GOOD, content_type="text/plain")
    assert status == 415
    assert_envelope(answer)


def test_wrong_method_and_unknown_routes(platform: Any) -> None:
    status, answer = send(platform, CHAT, b"", method="GET")
    assert status == 405
    assert_envelope(answer)
    for path in (
        "/v1/nothing",
        "/v1/models/",
        "//v1//models",
        "/v1/%2fmodels",
        "/..;/v1/models",
        "/v1/models%00",
    ):
        status, answer = send(platform, path, b"", method="GET")
        assert status in (400, 404), path
        assert_envelope(answer)


def test_body_too_large(platform: Any) -> None:
    status, answer = send(platform, CHAT, GOOD | {"x": "y" * (5 * 2**20)})
    assert status == 413
    assert_envelope(answer)


def test_ability_that_the_model_lacks(platform: Any) -> None:
    status, answer = send(platform, "/v1/embeddings", {"model": MODEL, "input": "x"})
    error = assert_envelope(answer)
    assert status in (400, 404)
    assert "chat" in error["message"]


def broken_audio() -> dict[str, bytes]:
    whole = BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(3200))
    lying = bytearray(whole.getvalue())
    lying[24:28] = struct.pack("<I", 4_000_000_000)
    return {
        "empty": b"",
        "text": b"#EXTM3U\nfile:///etc/passwd\n",
        "cut": whole.getvalue()[:40],
        "lying": bytes(lying),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "lying"])
def test_broken_audio(platform: Any, kind: str) -> None:
    body, content_type = form({"model": "whisper-base"}, {"file": broken_audio()[kind]})
    status, answer = send(platform, "/v1/audio/transcriptions", body, content_type=content_type)
    assert status == 400, answer
    assert_envelope(answer)


@pytest.mark.parametrize("image", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(20), b"<svg/>"])
def test_broken_image(platform: Any, image: bytes) -> None:
    body, content_type = form({"model": "pp-ocr-v6"}, {"image": image})
    status, answer = send(platform, "/v1/images/ocr", body, content_type=content_type)
    assert status == 400, answer
    assert_envelope(answer)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::ffff:127.0.0.1]"])
def test_h1_urls_lead_nowhere_inside(platform: Any, host: str) -> None:
    url = f"http://{host}:{platform.url.rpartition(':')[2]}/v1/models"
    part = {"type": "image_url", "image_url": {"url": url}}
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": [part]}]}
    for path, body, param in [
        (CHAT, asked, "messages.0.content.0.image_url.url"),
        ("/v1/images/ocr", {"model": "pp-ocr-v6", "image": url}, "image"),
    ]:
        status, answer = send(platform, path, body)
        error = assert_envelope(answer)
        assert (status, error["param"]) == (400, param), answer
        assert "not public" in error["message"]


def test_broken_multipart(platform: Any) -> None:
    body, content_type = form({"model": "whisper-base"}, {"file": b"x"})
    for broken in (body[:-10], b"", b"--" * 1000, body.replace(b"model", b"nodel")):
        status, answer = send(platform, "/v1/audio/transcriptions", broken, content_type=content_type)
        assert status == 400, answer
        assert_envelope(answer)


def test_broken_gguf(platform: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + os.urandom(4096))
    answer = platform.post("/api/models", {"path": str(broken)})
    assert_envelope(answer)
    spec = {
        "name": "broken",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [
            {"format": "gguf", "engine": "llama_cpp", "source": {"kind": "local", "path": str(broken)}}
        ],
    }
    platform.post("/api/models", {"spec": spec})
    status, answer = send(platform, CHAT, GOOD | {"model": "broken"})
    error = assert_envelope(answer)
    assert (status, error["code"]) == (502, "model_load_failed")
    assert "GGUF" in error["message"] or "gguf" in error["message"]
    assert str(tmp_path) not in error["message"]
    status, answer = send(platform, CHAT, GOOD | {"model": "broken"})
    assert status == 502, "and again, at once, without another start"
    assert platform.model("broken")["state"] == "failed"
    assert platform.model("broken")["retry_in_s"] is not None


def test_weights_that_cannot_be_had(platform: Any) -> None:
    spec = {
        "name": "gone",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [
            {"format": "gguf", "engine": "llama_cpp", "source": {"kind": "local", "path": "/nowhere/x.gguf"}}
        ],
    }
    platform.post("/api/models", {"spec": spec})
    status, answer = send(platform, CHAT, GOOD | {"model": "gone"})
    error = assert_envelope(answer)
    assert (status, error["code"]) == (502, "weights_unavailable")
    assert "x.gguf" in error["message"]
    assert "/nowhere" not in error["message"], "folders are told to whoever runs the platform"
    assert "/nowhere/x.gguf" in platform.model("gone")["error"]


def ekiben(platform: Any, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("EKIBEN_")}
    return subprocess.run(
        platform.command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=clean | env
    )


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "Error:"))]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_second_platform_on_one_home(platform: Any) -> None:
    done = ekiben(platform, "up", "--port", "0")
    assert "another platform runs" in assert_one_sentence(done, 2)


def test_port_taken(platform: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in assert_one_sentence(ekiben(platform, "up", "--port", port), 2)


def test_any_address_needs_a_key(platform: Any) -> None:
    done = ekiben(platform, "up", "--host", "0.0.0.0", "--port", "0")
    assert "EKIBEN_API_KEY" in assert_one_sentence(done, 2)


def test_broken_yaml_is_told_with_its_line(platform: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        "name: x\nfamily: llm\nabilities: [chat]\nvariants:\n  - format: gguf\n    engine: llama_cp\n"
    )
    done = ekiben(platform, "model", "add", str(path))
    assert f"{path}:5:5: variants.0.source is required" in assert_one_sentence(done, 2)
    path.write_text("name: [x\n")
    assert f"{path}:" in assert_one_sentence(ekiben(platform, "model", "add", str(path)), 2)


def test_unknown_model_on_the_command_line(platform: Any) -> None:
    for command in ("load", "stop", "pull", "logs"):
        assert "nobody" in assert_one_sentence(ekiben(platform, command, "nobody"), 1)
    assert "nobody" in assert_one_sentence(ekiben(platform, "run", "nobody", "hi"), 1)


def test_missing_engine(platform: Any) -> None:
    spec = {
        "name": "missing-engine",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [{"format": "x", "engine": "nowhere", "source": {"kind": "local", "path": "/x"}}],
    }
    assert "nowhere" in assert_envelope(platform.post("/api/models", {"spec": spec}))["message"]
