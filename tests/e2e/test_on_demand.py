"""Starts, stops, deaths and ends of real processes."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import psutil
import pytest

from tests.running import wait_until

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "Name three fruits."}]


def ask(platform: Any, **options: Any) -> Any:
    return platform.client.chat.completions.create(
        **({"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 8} | options)
    )


def starts(platform: Any) -> int:
    """How many replicas of the model were ever started."""
    return sum(f"model {MODEL}: replica" in line and "is process" in line for line in output(platform))


def output(platform: Any) -> list[str]:
    lines: list[str] = platform.log.read_text().splitlines()
    return lines


def test_sixteen_requests_to_a_cold_model_share_one_start(platform: Any) -> None:
    before = starts(platform)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(platform), range(16)))
    assert all(answer.choices[0].message.content for answer in answers)
    assert starts(platform) == before + 1


def test_request_that_meets_a_draining_model_is_answered(platform: Any) -> None:
    ask(platform)
    stream = ask(
        platform, stream=True, max_tokens=400, messages=[{"role": "user", "content": "Count to 500."}]
    )
    next(iter(stream))
    stopping = threading.Thread(target=lambda: platform.post(f"/api/models/{MODEL}/stop"))
    stopping.start()
    platform.wait_for(MODEL, "draining")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        late = pool.submit(ask, platform)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason in ("stop", "length"), "the running one ended well"
        assert late.result().choices[0].message.content
    stopping.join()


def test_keep_alive_zero_unloads_at_once(make_platform: Callable[..., Any]) -> None:
    platform = make_platform("--keep-alive", "0").start()
    ask(platform)
    platform.wait_for(MODEL, "cold", timeout_s=10)


def test_waiting_stream_gets_comments(make_platform: Callable[..., Any]) -> None:
    platform = make_platform(env={"EKIBEN_HEARTBEAT_S": "0.05"}).start()
    body = json.dumps({"model": MODEL, "messages": QUESTION, "stream": True, "max_tokens": 4}).encode()
    request = urllib.request.Request(
        f"{platform.url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read().decode()
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert any("starting" in line or "loading" in line for line in comments)
    assert text.rstrip().endswith("data: [DONE]")
    # The official client reads over them.
    platform.post(f"/api/models/{MODEL}/stop")
    assert "".join(c.choices[0].delta.content or "" for c in ask(platform, stream=True))


def test_replica_killed_in_mid_stream(platform: Any) -> None:
    stream = ask(
        platform, stream=True, max_tokens=2000, messages=[{"role": "user", "content": "Count to 900."}]
    )
    next(iter(stream))
    os.kill(platform.replica_pid(MODEL), signal.SIGKILL)
    with pytest.raises(openai.APIError):
        list(stream)
    assert ask(platform).choices[0].message.content, "the next request is served"


def test_killed_replica_never_ends_in_done(platform: Any) -> None:
    ask(platform)
    pid = platform.replica_pid(MODEL)
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Count to 900."}],
            "stream": True,
            "max_tokens": 2000,
        }
    ).encode()
    request = urllib.request.Request(
        f"{platform.url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.readline()
        os.kill(pid, signal.SIGKILL)
        text = response.read().decode()
    assert "[DONE]" not in text
    last = json.loads(text.rstrip().splitlines()[-1].removeprefix("data: "))
    assert set(last["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_stops_the_work(platform: Any, stream: bool) -> None:
    ask(platform)
    host, port = platform.url.removeprefix("http://").split(":")
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Count to 9000."}],
            "stream": stream,
            "max_tokens": 3500,
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        platform_busy(platform, 1)
        time.sleep(0.3)
    started = time.monotonic()
    platform_busy(platform, 0)
    assert time.monotonic() - started < 5
    process = psutil.Process(platform.replica_pid(MODEL))
    process.cpu_percent()
    time.sleep(1.0)
    assert process.cpu_percent() < 60, "the engine goes on computing for nobody"


def platform_busy(platform: Any, count: int) -> None:
    deadline = time.monotonic() + 20
    while platform.model(MODEL)["in_flight"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stop_ends_every_process(make_platform: Callable[..., Any]) -> None:
    platform = make_platform().start()
    ask(platform)
    assert len(platform.processes()) >= 2
    assert platform.stop() == 0
    assert platform.processes() == []


def test_platform_without_patience_takes_its_replicas_along_and_loses_nothing(
    make_platform: Callable[..., Any], weights: Callable[[str], Any]
) -> None:
    platform = make_platform(env={"EKIBEN_ORPHAN_S": "0"}).start()
    added = platform.post("/api/models", {"path": str(weights(MODEL)), "name": "mine"})
    assert added["error"] is None, added
    ask(platform)
    platform.kill()
    wait_until(lambda: platform.processes() == [] or None, "everything to end", timeout_s=10)
    platform.start()
    assert "mine" in [model.id for model in platform.client.models.list()]
    assert ask(platform, model="mine").choices[0].message.content
