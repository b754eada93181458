"""Forked replicas under a real platform: who ends with whom."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.running import wait_until

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "Name three fruits."}]


def ask(platform: Any) -> str:
    answer = platform.client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4)
    text: str = answer.choices[0].message.content
    return text


def children(platform: Any) -> list[psutil.Process]:
    return psutil.Process(platform.process.pid).children(recursive=True)


@pytest.fixture
def forking(make_platform: Callable[..., Any]) -> Any:
    """A platform with a zygote and a replica forked from it."""
    platform = make_platform("--keep-alive", "never").start()
    assert ask(platform)
    commands = [" ".join(child.cmdline()) for child in children(platform)]
    assert len(commands) == 2 and all("ekiben.runtime.zygote" in command for command in commands)
    return platform


def test_killed_platform_takes_its_zygotes_along_and_its_replicas_wait_for_the_next(
    make_platform: Callable[..., Any],
) -> None:
    platform = make_platform("--keep-alive", "never", env={"EKIBEN_ORPHAN_S": "2"}).start()
    assert ask(platform)
    replica = psutil.Process(platform.replica_pid(MODEL))
    (zygote,) = (child for child in children(platform) if child.pid != replica.pid)
    platform.kill()
    _, alive = psutil.wait_procs([zygote], timeout=5)
    assert alive == []
    wait_until(lambda: platform.processes() == [] or None, "the replica to give up", timeout_s=20)
    assert not list((platform.home / "run").glob("replicas/r*"))


def test_restarted_platform_takes_over_the_replica_of_a_killed_one(make_platform: Callable[..., Any]) -> None:
    platform = make_platform("--keep-alive", "never").start()
    assert ask(platform)
    replica = platform.replica_pid(MODEL)
    platform.kill()
    platform.start()
    assert platform.model(MODEL)["state"] == "ready"
    assert ask(platform)
    assert platform.replica_pid(MODEL) == replica
    platform.kill()
    platform.start()
    assert ask(platform), "and the next one again"
    assert platform.replica_pid(MODEL) == replica
    assert platform.log.read_text().count("is process") == 1, "there was one start"
    reached = platform.post(f"/-/adopt?pid={platform.process.pid}")
    assert reached["error"]["code"], "no client reaches the route for platforms"
    platform.post(f"/api/models/{MODEL}/stop")
    assert platform.model(MODEL)["state"] == "cold"
    assert not psutil.pid_exists(replica) or psutil.Process(replica).status() == psutil.STATUS_ZOMBIE
    assert ask(platform), "the next one is forked"


def test_replica_answers_when_its_zygote_is_gone(forking: Any) -> None:
    replica = forking.replica_pid(MODEL)
    (zygote,) = (child for child in children(forking) if child.pid != replica)
    zygote.send_signal(signal.SIGKILL)
    wait_until(lambda: None if zygote.is_running() else True, "the zygote to be waited for", timeout_s=5)
    assert ask(forking)
    assert forking.replica_pid(MODEL) == replica
    forking.post(f"/api/models/{MODEL}/stop")
    assert forking.model(MODEL)["state"] == "cold"
    assert ask(forking), "the next one is spawned"
    assert "the zygote of engine llama_cpp failed" in forking.log.read_text()


def test_stopped_platform_leaves_no_process(forking: Any) -> None:
    before = children(forking)
    assert forking.stop() == 0
    _, alive = psutil.wait_procs(before, timeout=5)
    assert alive == []
    assert not list((forking.home / "run").glob("replicas/*"))
