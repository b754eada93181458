"""The platform's own end, asked for or not, and replicas that hang: rows D2, D3 and D6."""

from __future__ import annotations

import http.client
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import openai
import psutil
import pytest

from tests.command_line import CommandLine, assert_fails
from tests.mayflies import Mayfly, hear, is_alive, last_event
from tests.running import Platform, wait_until

Start: TypeAlias = Callable[..., Platform]


@pytest.fixture
def start(make_platform: Callable[..., Platform], with_mayflies: dict[str, str]) -> Start:
    def make(*flags: str, **env: str) -> Platform:
        return make_platform("--keep-alive", "never", *flags, env=with_mayflies | env).start()

    return make


def refusal(platform: Platform, path: str, body: dict[str, Any] | None = None) -> urllib.error.HTTPError:
    """The error that answers a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(platform.url + path, data, {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    return caught.value


def asked_to_end(platform: Platform) -> psutil.Process:
    assert platform.process is not None
    process = psutil.Process(platform.process.pid)
    process.send_signal(signal.SIGTERM)
    return process


# D6


def test_d6_what_runs_may_end_and_what_comes_is_refused(start: Start, tmp_path: Path) -> None:
    platform = start("--drain-s", "60")
    fly = Mayfly(platform, "fly", tmp_path)
    with fly.stream("one !gate two") as body, ThreadPoolExecutor(1) as pool:
        hear(body, "one")
        whole = pool.submit(fly.ask, "three !gate four")
        wait_until(lambda: fly.status["in_flight"] == 2 or None, "both to run")
        asked_to_end(platform)
        with wait_until(lambda: not_ready(platform), "readiness to end") as error:
            assert error.code == 503
        messages = [{"role": "user", "content": "hello"}]
        with refusal(platform, "/v1/chat/completions", {"model": fly.name, "messages": messages}) as error:
            assert error.code == 503 and int(error.headers["retry-after"]) > 0
            assert json.load(error)["error"]["code"] == "shutting_down"
        fly.open_gate()
        assert body.read().endswith(b"data: [DONE]\n\n")
        assert whole.result() == "three four"
    assert platform.process is not None and platform.process.wait(timeout=20) == 0
    assert fly.living == [] and platform.processes() == []


def not_ready(platform: Platform) -> urllib.error.HTTPError | None:
    try:
        with urllib.request.urlopen(f"{platform.url}/readyz", timeout=30):
            return None
    except urllib.error.HTTPError as error:
        return error


def test_d6_what_does_not_end_in_time_is_ended(start: Start, tmp_path: Path) -> None:
    platform = start("--drain-s", "1")
    fly = Mayfly(platform, "fly", tmp_path)
    with fly.stream("one !hang") as body:
        hear(body, "one")
        asked_to_end(platform)
        rest = body.read()
    assert b"[DONE]" not in rest and last_event(rest)["error"]["code"]
    assert platform.process is not None and platform.process.wait(timeout=30) == 0
    assert fly.living == []


def test_d6_load_under_way_ends_with_the_platform(start: Start, tmp_path: Path) -> None:
    platform = start()
    fly = Mayfly(platform, "fly", tmp_path, load="!gate")
    platform.post(f"/api/models/{fly.name}/load?wait_s=0")
    fly.wait_for_load()
    asked_to_end(platform)
    assert platform.process is not None and platform.process.wait(timeout=30) == 0
    assert fly.living == []
    assert not list((platform.home / "run").glob("replicas/*"))


# D3


def test_d3_two_platforms_cannot_share_a_home(start: Start, tmp_path: Path) -> None:
    platform = start()
    fly = Mayfly(platform, "fly", tmp_path)
    fly.ask()
    pid = fly.pid
    assert_fails(CommandLine(platform.home)("up", "--port", "0"), "another platform runs on", code=2)
    assert fly.ask() == "hello" and fly.pid == pid, "the first one is not harmed"


def test_d3_replicas_of_a_killed_platform_are_taken_over(start: Start, tmp_path: Path) -> None:
    platform = start()
    flies = [Mayfly(platform, f"fly-{number}", tmp_path) for number in range(2)]
    for fly in flies:
        fly.ask()
    pids = [fly.pid for fly in flies]
    platform.kill()
    platform.start()
    for fly, pid in zip(flies, pids, strict=True):
        assert fly.state == "ready"
        assert fly.ask() == "hello"
        assert fly.pid == pid and fly.loads == [pid], "no cold start, and no second copy"
    assert platform.stop() == 0
    assert [pid for pid in pids if is_alive(pid)] == []
    assert not list((platform.home / "run").glob("replicas/*"))


def test_d3_replica_that_was_loading_is_not_loaded_twice(start: Start, tmp_path: Path) -> None:
    platform = start()
    fly = Mayfly(platform, "fly", tmp_path, load="!gate")
    platform.post(f"/api/models/{fly.name}/load?wait_s=0")
    fly.wait_for_load()
    platform.kill()
    platform.start()
    fly.open_gate()
    assert fly.ask() == "hello"
    assert wait_until(lambda: fly.living if len(fly.living) == 1 else None, "one to be left") == [fly.pid]


@pytest.mark.slow
def test_d3_replica_that_died_with_its_platform_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    platform = start()
    fly = Mayfly(platform, "fly", tmp_path)
    fly.ask()
    pid = fly.pid
    platform.kill()
    os.kill(pid, signal.SIGKILL)
    platform.start()
    assert fly.ask() == "hello"
    assert fly.pid != pid
    assert len(list((platform.home / "run").glob("replicas/*/process"))) == 1, "its socket is cleaned up"


def test_d3_replica_whose_answer_is_broken_off_serves_the_next_platform(start: Start, tmp_path: Path) -> None:
    platform = start()
    fly = Mayfly(platform, "fly", tmp_path)
    with fly.stream("one !hang") as body:
        hear(body, "one")
        pid = fly.pid
        platform.kill()
        with pytest.raises(http.client.IncompleteRead):
            body.read()
    platform.start()
    assert fly.ask() == "hello" and fly.pid == pid
    assert wait_until(lambda: fly.cancelled or None, "the engine to hear that nobody listens") == ["one"]


@pytest.mark.slow
def test_d3_orphans_end_when_no_platform_comes(start: Start, tmp_path: Path) -> None:
    platform = start("--orphan-s", "1")
    fly = Mayfly(platform, "fly", tmp_path)
    fly.ask()
    pid = fly.pid
    platform.kill()
    wait_until(lambda: None if is_alive(pid) else True, "the orphan to end", timeout_s=30)
    assert platform.processes() == []


# D2


@pytest.fixture
def watchful(start: Start) -> Platform:
    """Gives a replica that hangs up soon."""
    return start("--hang-s", "2")


def suspend(fly: Mayfly) -> int:
    pid = fly.pid
    psutil.Process(pid).suspend()
    return pid


def test_d2_hung_replica_is_replaced_and_others_serve(watchful: Platform, tmp_path: Path) -> None:
    hung, other = Mayfly(watchful, "hung", tmp_path), Mayfly(watchful, "other", tmp_path)
    hung.ask()
    other.ask()
    pid = suspend(hung)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(answer_or_error, hung)
        while is_alive(pid) and not answer.done():
            assert other.ask() == "hello"
        wait_until(lambda: None if is_alive(pid) else True, "the hung one to be ended", timeout_s=60)
        code = answer.result()
    assert code in ("hello", "replica_died"), "what it had may not be repeated; what it had not, is answered"
    assert hung.ask() == "hello"
    assert hung.pid != pid and len(hung.living) == 1


def answer_or_error(fly: Mayfly) -> str | None:
    try:
        return fly.ask()
    except openai.APIStatusError as error:
        return error.code


@pytest.mark.slow
def test_d2_replica_that_goes_on_in_time_keeps_its_model(start: Start, tmp_path: Path) -> None:
    platform = start("--hang-s", "60")
    fly = Mayfly(platform, "fly", tmp_path)
    fly.ask()
    pid = suspend(fly)
    try:
        found = f"replica {fly.status['replicas'][0]['id']} does not answer"
        wait_until(
            lambda: found in platform.log.read_text() or None, "the silence to be noticed", timeout_s=40
        )
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(fly.ask)
            wait_until(lambda: fly.status["waiting"] == 1 or None, "the request to wait: none is sent there")
            psutil.Process(pid).resume()
            assert answer.result() == "hello"
    finally:
        if is_alive(pid):
            psutil.Process(pid).resume()
    assert fly.pid == pid and len(fly.loads) == 1


@pytest.mark.slow
def test_d2_replica_that_hangs_in_native_code_is_ended(watchful: Platform, tmp_path: Path) -> None:
    """Its process runs, but answers nothing any more."""
    fly = Mayfly(watchful, "fly", tmp_path)
    with fly.stream("one !block") as body:
        hear(body, "one")
        pid = fly.pid
        rest = body.read()
    assert b"[DONE]" not in rest
    assert last_event(rest)["error"]["code"] == "replica_died"
    wait_until(lambda: None if is_alive(pid) else True, "its end", timeout_s=60)
    assert fly.ask() == "hello"
