"""Replicas that die, one way or the other: rows D1, D4 and D5, and C1 and C5 where a process is the cause."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import openai
import psutil
import pytest

from tests.mayflies import Mayfly, hear, is_alive, last_event
from tests.running import Platform, wait_until

Hatch: TypeAlias = Callable[..., Mayfly]
DEATHS = pytest.mark.parametrize("death", ["!kill", "!segv", "!exit"])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# D1


def test_d1_killed_while_idle(hatch: Hatch) -> None:
    fly = hatch()
    fly.ask()
    kill(fly.pid)
    fly.wait_for("cold")
    assert fly.ask() == "hello"
    assert len(fly.loads) == 2 and len(fly.living) == 1


def test_d1_killed_just_before_a_request(hatch: Hatch) -> None:
    """Nobody may have noticed yet: the request is answered by another replica, or told to come again."""
    fly = hatch()
    fly.ask()
    kill(fly.pid)
    try:
        assert fly.ask() == "hello"
    except openai.InternalServerError as error:
        assert error.code == "replica_died"
    assert fly.ask() == "hello"


def test_d1_killed_in_mid_stream(hatch: Hatch) -> None:
    fly = hatch()
    with fly.stream("one two !hang three") as body:
        hear(body, "one")
        kill(fly.pid)
        rest = body.read()
    assert b"[DONE]" not in rest
    assert last_event(rest)["error"]["code"] == "replica_died"
    assert fly.ask() == "hello"


def test_d1_killed_before_the_first_byte(hatch: Hatch) -> None:
    """It had the request, and may have done what was asked: nobody repeats it but the client."""
    fly = hatch()
    fly.ask()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fly.ask, "!hang")
        wait_until(lambda: fly.status["in_flight"] == 1 or None, "the request to arrive")
        kill(fly.pid)
        with pytest.raises(openai.InternalServerError) as caught:
            answer.result()
    assert caught.value.status_code == 502 and caught.value.code == "replica_died"
    assert fly.ask() == "hello"
    assert len(fly.loads) == 2


def test_d1_killed_in_mid_load(hatch: Hatch) -> None:
    fly = hatch(load="!gate")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(fly.ask) for _ in range(2)]
        kill(fly.wait_for_load())
        for answer in waiting:
            with pytest.raises(openai.APIStatusError) as caught:
                answer.result()
            assert caught.value.status_code in (502, 503) and "SIGKILL" in caught.value.message
    fly.open_gate()
    assert wait_until(lambda: answer_or_none(fly), "the pause to end", timeout_s=20) == "hello"


def answer_or_none(fly: Mayfly) -> str | None:
    try:
        return fly.ask()
    except openai.APIStatusError as error:
        assert error.response.headers["retry-after"], "a pause is told"
        return None


def test_d1_others_do_not_notice(hatch: Hatch) -> None:
    dying, living = hatch("dying"), hatch("living")
    dying.ask()
    with living.stream("one !gate two") as body:
        hear(body, "one")
        pid = living.pid
        kill(dying.pid)
        dying.wait_for("cold")
        living.open_gate()
        assert body.read().endswith(b"data: [DONE]\n\n")
    assert living.pid == pid


# D4


@DEATHS
def test_d4_death_in_mid_stream_is_told_in_the_stream(hatch: Hatch, death: str) -> None:
    fly = hatch()
    with fly.stream(f"one !pause {death}") as stream:
        body = stream.read()
    assert b"[DONE]" not in body
    assert last_event(body)["error"]["code"] == "replica_died"
    assert fly.ask() == "hello"


@DEATHS
def test_d4_death_in_the_load_fails_the_model_with_the_last_words_of_its_log(
    hatch: Hatch, death: str
) -> None:
    fly, other = hatch(load=death), hatch("other")
    with pytest.raises(openai.APIStatusError) as caught:
        fly.ask()
    how = {"!kill": "SIGKILL", "!segv": "SIGSEGV", "!exit": "exit code 0"}[death]
    assert caught.value.code == "model_load_failed" and how in caught.value.message
    status = fly.wait_for("failed")
    assert how in status["error"] and status["retry_in_s"] is not None
    words = {"!segv": "touches what is not there", "!exit": "has had enough"}
    assert words.get(death, "") in status["error"]
    assert other.ask() == "hello"


def test_d4_crash_loop_backs_off(hatch: Hatch) -> None:
    """However often it is asked for, it is started a few times only; and once it is mended, it serves."""
    fly, other = hatch(load="!exit"), hatch("other")
    other.ask()
    pauses: list[float] = []
    for _ in range(40):
        with pytest.raises(openai.APIStatusError) as caught:
            fly.ask()
        pauses.append(float(caught.value.response.headers["retry-after"]))
        assert other.ask() == "hello"
    assert len(fly.loads) <= 5
    fly.become()
    assert wait_until(lambda: answer_or_none(fly), "the pause to end", timeout_s=60) == "hello"
    assert fly.status["error"] is None


def test_d4_deaths_while_serving_in_a_row_end_in_failed(hatch: Hatch) -> None:
    fly = hatch()
    for _ in range(10):
        with pytest.raises(openai.APIStatusError):
            fly.ask("!exit")
        if fly.state == "failed":
            break
        wait_until(lambda: fly.state != "ready" or None, "the death to be noticed")
    status = fly.wait_for("failed")
    assert "in a row" in status["error"] and "has had enough" in status["error"]
    assert wait_until(lambda: answer_or_none(fly), "the pause to end", timeout_s=60) == "hello"


def test_d4_out_of_memory_by_ulimit_while_serving(hatch: Hatch) -> None:
    """An allocation that fails is the request's misfortune, not the replica's."""
    fly = hatch()
    fly.ask()
    pid = fly.pid
    with pytest.raises(openai.InternalServerError):
        fly.ask("!limit !eat")
    assert fly.ask() == "hello"
    assert fly.pid == pid


def test_d4_out_of_memory_by_ulimit_in_the_load(hatch: Hatch) -> None:
    fly = hatch(load="!limit !eat")
    with pytest.raises(openai.APIStatusError) as caught:
        fly.ask()
    assert "memory" in caught.value.message.lower()
    assert "memory" in fly.wait_for("failed")["error"].lower()


@contextmanager
def cgroup_of(limit_bytes: int) -> Iterator[Path]:
    """The file that takes the ids of processes which may have so much memory together, of both versions."""
    versions = (
        ("/sys/fs/cgroup", "0::", "memory.max"),
        ("/sys/fs/cgroup/memory", "memory:", "memory.limit_in_bytes"),
    )
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    for root, marker, limit in versions:
        own = next((line.partition(marker)[2] for line in lines if marker in line), None)
        folder = Path(f"{root}{own}") / f"mayfly-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / limit).exists():
                (folder / limit).write_text(str(limit_bytes))
                yield folder / "cgroup.procs"
                return
        finally:
            wait_until(partial(remove, folder), "the group to be empty", timeout_s=10)
    pytest.skip("this machine lets nobody make a cgroup with a limit on memory")


def remove(folder: Path) -> bool | None:
    try:
        folder.rmdir()
    except OSError:
        return None
    return True


def test_d4_out_of_memory_by_cgroup(hatch: Hatch) -> None:
    fly, other = hatch(), hatch("other")
    fly.ask()
    other.ask()
    with cgroup_of(96 * 2**20) as members:
        pid = fly.pid
        members.write_text(str(pid))
        with pytest.raises(openai.InternalServerError) as caught:
            fly.ask("!eat")
        assert caught.value.code == "replica_died"
        wait_until(lambda: None if is_alive(pid) else True, "the end of the process")
    assert other.ask() == fly.ask() == "hello"


# D5


def test_d5_killed_during_scale_to_zero(hatch: Hatch) -> None:
    fly = hatch(unload="!gate", keep_alive="0")
    fly.ask()
    fly.wait_for("draining")
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(fly.ask)
        wait_until(lambda: fly.status["waiting"] == 1 or None, "the request to wait")
        kill(fly.loads[0])
        assert late.result() == "hello", "it waits for the old process to end, and gets a new one"
    assert len(fly.loads) == 2


def test_d5_killed_during_wake(hatch: Hatch) -> None:
    fly = hatch(load="!gate", keep_alive="0")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fly.ask)
        kill(fly.wait_for_load(1))
        with pytest.raises(openai.APIStatusError):
            first.result()
        fly.open_gate()
        assert wait_until(lambda: answer_or_none(fly), "the pause to end", timeout_s=20) == "hello"
    fly.wait_for("cold")
    assert fly.ask() == "hello"
    assert len(fly.living) <= 1


def test_d5_fifty_first_requests_make_one_start(hatch: Hatch) -> None:
    fly = hatch(load="!gate")
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(fly.ask) for _ in range(50)]
        wait_until(lambda: fly.status["waiting"] == 50 or None, "all to wait")
        fly.open_gate()
        assert [answer.result() for answer in answers] == ["hello"] * 50
    assert len(fly.loads) == 1


# C1 and C5


def leave_in_the_middle(fly: Mayfly, text: str, *, after: bytes = b"") -> None:
    """Ask, wait for some bytes of the answer if any are wanted, and hang up."""
    host, port = fly.platform.url.removeprefix("http://").split(":")
    body = b'{"model": "%b", "stream": true, "messages": [{"role": "user", "content": "%b"}]}' % (
        fly.name.encode(),
        text.encode(),
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        seen = b""
        while after not in seen:
            seen += client.recv(4096)
        if not after:
            wait_until(lambda: fly.status["waiting"] == 1 or None, "the request to wait")


def test_c1_engine_hears_that_its_client_left_in_mid_stream(hatch: Hatch) -> None:
    fly = hatch()
    leave_in_the_middle(fly, "one two !hang", after=b"two")
    assert wait_until(lambda: fly.cancelled or None, "the engine to hear of it") == ["one two"]
    wait_until(lambda: fly.status["in_flight"] == 0 or None, "the lease to come back")
    assert fly.ask() == "hello"


def test_c1_load_survives_the_client_who_asked_for_it(hatch: Hatch) -> None:
    fly = hatch(load="!gate")
    leave_in_the_middle(fly, "hello")
    fly.wait_for_load()
    wait_until(lambda: fly.status["waiting"] == 0 or None, "the client to be gone")
    fly.open_gate()
    fly.wait_for("ready")
    assert fly.ask() == "hello"
    assert len(fly.loads) == 1


def test_c5_replica_that_is_asked_to_end_by_somebody_else_ends_its_answers_first(hatch: Hatch) -> None:
    fly = hatch()
    with fly.stream("one !gate two") as body:
        hear(body, "one")
        pid = fly.pid
        psutil.Process(pid).terminate()
        threading.Timer(0.3, fly.open_gate).start()
        assert body.read().endswith(b"data: [DONE]\n\n")
    wait_until(lambda: None if is_alive(pid) else True, "the end of the process")
    assert fly.ask() == "hello"


def test_no_process_is_left_unwaited_for(pond: Platform, hatch: Hatch) -> None:
    """After all that died above."""
    assert pond.process is not None
    hatch().ask()
    children = psutil.Process(pond.process.pid).children(recursive=True)
    assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
