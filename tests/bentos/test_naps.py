"""Naps of real replicas, spawned and forked: ready, slept, woken, and what can go wrong with that."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ekiben.fleet.processes.launcher import Launcher
from ekiben.runtime.protocol import Report, Stage
from tests.bentos.processes import PARROT, Replica, parrot_plan
from tests.bentos.stand_in import make_launcher

WAIT_S = 60.0
FEATHERS_BYTES = 32 * 2**20


class Sleepy:
    """One replica that a launcher started, as the supervisor sees it."""

    def __init__(self, launcher: Launcher, folder: Path, **options: Any) -> None:
        self.launcher = launcher
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.process = launcher.launch(
            "r1",
            plan=parrot_plan(folder / "cracker", **options),
            go=True,
            on_report=self.reports.put_nowait,
            on_exit=self.ended.set_result,
        )

    async def next(self, stage: Stage) -> Report:
        async with asyncio.timeout(WAIT_S):
            while (report := await self.reports.get()).stage is not stage:
                assert report.stage is not Stage.FAILED, report.error
        return report

    async def end(self) -> str:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.shield(self.ended)

    async def ask(self, path: str, text: str | None = None) -> httpx.Response:
        body = {"model": "polly", "messages": [{"role": "user", "content": text}]}
        transport = httpx.AsyncHTTPTransport(uds=self.process.address.location)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=30) as client:
            return await (client.get(path) if text is None else client.post(path, json=body))

    async def chat(self, text: str) -> httpx.Response:
        return await self.ask("/v1/chat/completions", text)


Start = Callable[..., Sleepy]
either = pytest.mark.parametrize("kind", ["spawn", "fork"])


@pytest.fixture
def kind() -> str:
    """How the replica is started, unless the test says otherwise."""
    return "spawn"


@pytest.fixture
async def start(kind: str, parrot_path: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """`start(sleep="well")`: the options are the parrot's."""
    assert str(PARROT) in parrot_path
    monkeypatch.setenv("PYTHONPATH", parrot_path)
    folder = Path(tempfile.mkdtemp(prefix="eb-"))
    (folder / "cracker").write_bytes(b"cracker")
    started: list[Sleepy] = []

    def begin(**options: Any) -> Sleepy:
        launcher = make_launcher(folder, orphan_s=0, kind=kind)
        started.append(Sleepy(launcher, folder, **options))
        return started[-1]

    yield begin
    for sleepy in started:
        sleepy.process.kill()
        await sleepy.end()
        sleepy.launcher.close()
    shutil.rmtree(folder, ignore_errors=True)


@either
async def test_it_sleeps_and_wakes_and_answers_as_before(start: Start) -> None:
    sleepy = start(sleep="well")
    ready = await sleepy.next(Stage.READY)
    assert ready.sleeps and ready.host_bytes is not None
    sleepy.process.sleep()
    slept = await sleepy.next(Stage.SLEPT)
    assert slept.host_bytes is not None and slept.host_bytes < ready.host_bytes - FEATHERS_BYTES / 2
    refused = await sleepy.chat("good night")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_ready")
    assert [(await sleepy.ask(path)).status_code for path in ("/readyz", "/livez")] == [503, 200]
    sleepy.process.wake()
    woken = await sleepy.next(Stage.READY)
    assert woken.sleeps and woken.host_bytes is not None
    assert woken.host_bytes > slept.host_bytes + FEATHERS_BYTES / 2
    answer = await sleepy.chat("good morning")
    assert answer.json()["choices"][0]["message"]["content"] == "good morning"
    assert (await sleepy.ask("/readyz")).status_code == 200
    sleepy.process.terminate()
    assert await sleepy.end() == "the process ended with exit code 0"
    sleepy.process.sleep()
    sleepy.process.wake()


@either
async def test_a_death_asleep_is_noticed(start: Start) -> None:
    sleepy = start(sleep="well")
    await sleepy.next(Stage.READY)
    sleepy.process.sleep()
    await sleepy.next(Stage.SLEPT)
    assert sleepy.process.pid is not None
    os.kill(sleepy.process.pid, 9)
    assert "SIGKILL" in await sleepy.end()


async def test_it_goes_while_it_sleeps(start: Start) -> None:
    sleepy = start(sleep="well")
    await sleepy.next(Stage.READY)
    sleepy.process.sleep()
    await sleepy.next(Stage.SLEPT)
    sleepy.process.terminate()
    assert await sleepy.end() == "the process ended with exit code 0"


@pytest.mark.parametrize(
    ("sleep", "reason"),
    [
        ("fails", "the parrot is stunned: try another one"),
        (
            "tosses",
            "the engine 'parrot' cannot put to sleep 'polly': RuntimeError: a noise in the cage",
        ),
    ],
)
async def test_a_nap_that_fails_is_told_and_ends_the_process(start: Start, sleep: str, reason: str) -> None:
    sleepy = start(sleep=sleep)
    await sleepy.next(Stage.READY)
    sleepy.process.sleep()
    if sleep == "fails":
        await sleepy.next(Stage.SLEPT)
        sleepy.process.wake()
    async with asyncio.timeout(WAIT_S):
        failed = await sleepy.reports.get()
    assert (failed.stage, failed.error) == (Stage.FAILED, reason)
    assert "exit code 3" in await sleepy.end()


async def test_who_cannot_sleep_says_so(start: Start) -> None:
    assert not (await start().next(Stage.READY)).sleeps


def test_it_sleeps_only_when_its_requests_have_ended(start_replica: Callable[..., Replica]) -> None:
    replica = start_replica(sleep="well", pause_s=0.2)
    replica.report_of(Stage.READY)
    with replica.chat("one two three") as events:
        next(events)
        replica.channel.send(b"sleep\n")
        next(events)  # the third word is a pause away
        assert "the parrot sleeps" not in replica.log
        assert [*events][-1] == "[DONE]"
    replica.report_of(Stage.SLEPT)


def test_it_does_not_sleep_on_when_its_platform_hangs_up(start_replica: Callable[..., Replica]) -> None:
    replica = start_replica(sleep="well")
    replica.report_of(Stage.READY)
    replica.channel.send(b"sleep\n")
    replica.report_of(Stage.SLEPT)
    replica.channel.shutdown(socket.SHUT_RDWR)
    assert replica.process.wait(timeout=WAIT_S) == 0
    assert not replica.order.folder.exists()
