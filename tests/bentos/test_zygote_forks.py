"""Replicas forked from a zygote, with a parrot for an engine: what they share, and what they must not."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from ekiben.fleet.processes import fork_launcher, zygote
from ekiben.fleet.processes.berths import Berths, Plan
from ekiben.fleet.processes.children import child_pids, end_child
from ekiben.fleet.processes.fork_launcher import ForkLauncher
from ekiben.runtime.protocol import Report, Stage
from tests.bentos.processes import PARROT, parrot_plan

WAIT_S = 60.0
Pair = tuple["Forked", "Forked"]


class Forked:
    """One replica, as the supervisor sees it."""

    def __init__(self, launcher: ForkLauncher, number: int, plan: Plan, *, go: bool) -> None:
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.process = launcher.launch(
            f"r{number}",
            plan=plan,
            go=go,
            on_report=self.reports.put_nowait,
            on_exit=self.ended.set_result,
        )

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def system_process(self) -> psutil.Process:
        return psutil.Process(self.pid)

    async def ready(self) -> Forked:
        async with asyncio.timeout(WAIT_S):
            while (report := await self.reports.get()).stage is not Stage.READY:
                assert report.stage is not Stage.FAILED, report.error
        return self

    async def end(self) -> str:
        self.process.terminate()
        async with asyncio.timeout(WAIT_S):
            return await self.ended

    async def say(self, text: str) -> str:
        body = {"model": "polly", "messages": [{"role": "user", "content": text}]}
        response = await self.ask("POST", "/v1/chat/completions", json=body)
        answer: str = response.json()["choices"][0]["message"]["content"]
        return answer

    async def ask(self, method: str, path: str, *, json: object = None) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=self.process.address.location)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            return await client.request(method, path, json=json)


class Fleet:
    def __init__(self, folder: Path, launcher: ForkLauncher) -> None:
        self.folder = folder
        self.launcher = launcher
        self.started: list[Forked] = []
        (folder / "cracker").write_bytes(b"cracker")

    def start(self, *, go: bool = True, device: str = "cpu", **options: object) -> Forked:
        plan = parrot_plan(self.folder / "cracker", device=device, **options)
        self.started.append(Forked(self.launcher, len(self.started), plan, go=go))
        return self.started[-1]

    def log(self) -> str:
        return (self.folder / "logs" / "polly.log").read_text()

    def zygote_pid(self) -> int:
        (status,) = self.launcher.zygotes()
        return status.pid

    async def close(self) -> None:
        for forked in self.started:
            if not forked.ended.done():
                forked.process.kill()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*(forked.ended for forked in self.started))
        self.launcher.close()


MakeFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def make_fleet(folder: Path, parrot_path: str) -> AsyncIterator[MakeFleet]:
    """`await make_fleet(parrot=folder, idle_s=1)`: the folder is of a parrot other than the usual one."""
    made: list[Fleet] = []
    before = set(child_pids())

    async def make(*, parrot: Path = PARROT, idle_s: float = 600.0) -> Fleet:
        (folder / "logs").mkdir()
        path = parrot_path.replace(str(PARROT), str(parrot))
        launcher = ForkLauncher(
            berths=Berths(run_folder=folder / "run", log_folder=folder / "logs"),
            environment={**os.environ, "PYTHONPATH": path},
            log_folder=folder / "logs",
            idle_s=idle_s,
        )
        made.append(Fleet(folder, launcher))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.close()
    assert set(child_pids()) <= before, "a process is left, or was not waited for"
    assert not list((folder / "run").iterdir())


@pytest.fixture
async def fleet(make_fleet: MakeFleet) -> Fleet:
    return await make_fleet()


@pytest.fixture
async def pair(fleet: Fleet) -> Pair:
    """Two replicas of one zygote."""
    first, second = fleet.start(), fleet.start()
    return await first.ready(), await second.ready()


async def test_replica_is_forked_and_belongs_to_the_platform(fleet: Fleet) -> None:
    forked = await fleet.start().ready()
    (status,) = fleet.launcher.zygotes()
    assert (status.engine, status.warm) == ("parrot", True)
    assert status.memory_bytes is not None and status.memory_bytes > 10**7
    assert forked.system_process.ppid() == os.getpid()
    assert os.getsid(forked.pid) == forked.pid
    assert f"{status.pid}" in " ".join(map(str, child_pids()))
    assert psutil.Process(status.pid).num_threads() == 1
    assert await forked.say("hello there") == "hello there"
    assert await forked.end() == "the process ended with exit code 0"


async def test_fork_tells_what_it_will_take_and_loads_when_it_is_told_to(fleet: Fleet) -> None:
    forked = fleet.start(go=False, device="cuda:1")
    async with asyncio.timeout(WAIT_S):
        while (told := await forked.reports.get()).host_bytes is None:
            pass
    assert (told.stage, told.device_bytes) == (Stage.STARTING, 3_000_000)
    assert forked.reports.empty()
    forked.process.go()
    await forked.ready()
    assert "will load on cuda:0, seeing '1' None" in fleet.log()
    assert await forked.end() == "the process ended with exit code 0"
    forked.process.go()
    assert forked.process.memory() is None


async def test_memory_that_is_shared_counts_once(pair: Pair, fleet: Fleet) -> None:
    (zygote,) = fleet.launcher.zygotes()
    replicas = [forked.process.memory() for forked in pair]
    held = [memory["cpu"] for memory in replicas if memory is not None]
    resident = [forked.system_process.memory_info().rss for forked in pair]
    assert len(held) == 2 and zygote.memory_bytes is not None
    assert all(0 < pss < 0.8 * rss for pss, rss in zip(held, resident, strict=True))
    assert sum(held) + zygote.memory_bytes < sum(resident)


async def test_fork_inherits_no_descriptor_of_the_zygote_or_of_others(pair: Pair) -> None:
    ends = [{str(fd.readlink()) for fd in Path(f"/proc/{forked.pid}/fd").iterdir()} for forked in pair]
    shared = {end for end in ends[0] & ends[1] if end.startswith(("socket:", "pipe:"))}
    assert not shared


async def test_forks_count_their_own_requests(pair: Pair) -> None:
    first, second = pair
    await first.say("one")
    for _ in range(3):
        await second.say("two")
    counts = []
    for forked in pair:
        metrics = (await forked.ask("GET", "/metrics")).text
        found = re.search(
            r'^ekiben_replica_requests_total\{route="/v1/chat/completions".*\} (\S+)$', metrics, re.M
        )
        assert found is not None, metrics
        counts.append(float(found[1]))
    assert counts == [1.0, 3.0]


async def test_forks_draw_different_random_numbers(pair: Pair) -> None:
    first, second = [(await forked.say("roll")).split() for forked in pair]
    assert first[0] != second[0], "Python's"
    assert first[1] != second[1], "numpy's"


async def test_forks_have_a_bentoml_home_of_their_own(pair: Pair) -> None:
    for forked in pair:
        home = Path(forked.process.address.location).parent / "bentoml"
        assert await forked.say("home") == f"{home} {home / 'task_result.db'} {home / 'models'}"


async def test_failing_load_is_told_and_harms_nobody_else(fleet: Fleet) -> None:
    failing = fleet.start(load="fails")
    async with asyncio.timeout(WAIT_S):
        assert (await failing.ended).startswith("the process ended with exit code 3")
    reports = [failing.reports.get_nowait() for _ in range(failing.reports.qsize())]
    assert reports[-1].error == "the parrot is not hungry: try another cracker"
    assert await (await fleet.start().ready()).say("hello") == "hello"


async def test_replica_outlives_its_zygote_and_the_next_is_spawned(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_launcher, "FIRST_PAUSE_S", 3600.0)
    first = await fleet.start().ready()
    os.kill(fleet.zygote_pid(), signal.SIGKILL)
    await _until(lambda: not fleet.launcher.zygotes())
    assert "ended by signal SIGKILL" in caplog.text and "replicas are spawned" in caplog.text
    assert await first.say("still here") == "still here"
    second = await fleet.start().ready()
    assert not fleet.launcher.zygotes()
    assert "ekiben.runtime.replica" in second.system_process.cmdline()
    for seat in fleet.launcher._seats.values():
        seat._not_before = 0.0  # the pause is over
    third = await fleet.start().ready()
    assert "ekiben.runtime.zygote" in third.system_process.cmdline()
    for forked in (first, second, third):
        assert await forked.end() == "the process ended with exit code 0"


async def test_zygote_that_hangs_is_given_up(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await fleet.start().ready()
    hung = fleet.zygote_pid()
    monkeypatch.setattr(zygote, "ANSWER_S", 0.3)
    os.kill(hung, signal.SIGSTOP)
    assert await (await fleet.start().ready()).say("hello") == "hello"
    assert "did not answer" in caplog.text
    assert not psutil.pid_exists(hung)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise RuntimeError('squawk')", "RuntimeError: squawk"),
        ("import os; os._exit(7)", "the process ended with exit code 7"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "an import has started threads: there are 2",
        ),
    ],
)
async def test_broken_preload_is_told_and_replicas_are_spawned(
    make_fleet: MakeFleet, tmp_path: Path, caplog: pytest.LogCaptureFixture, module: str, reason: str
) -> None:
    parrot = tmp_path / "parrot"
    shutil.copytree(PARROT, parrot)
    (parrot / "odd_feathers.py").write_text(module)
    manifest = parrot / "ekiben_parrot" / "plugin.toml"
    text = manifest.read_text().replace("[engine]\n", '[engine]\npreload = ["odd_feathers"]\n')
    manifest.write_text(text)
    fleet = await make_fleet(parrot=parrot)
    forked = await fleet.start().ready()
    assert "ekiben.runtime.replica" in forked.system_process.cmdline()
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and reason in warnings[0]


async def test_start_that_is_withdrawn_leaves_nothing(fleet: Fleet) -> None:
    early = fleet.start()
    early.process.kill()
    async with asyncio.timeout(WAIT_S):
        assert await early.ended == "it was stopped before it had a process"
    waiting = fleet.start()
    await _until(lambda: bool(fleet.launcher.zygotes()))
    waiting.process.terminate()
    async with asyncio.timeout(WAIT_S):
        assert await waiting.ended == "it was stopped before it had a process"
    await fleet.start().ready()
    asked = fleet.start()
    await asyncio.sleep(0)  # the request is on its way
    asked.process.kill()
    async with asyncio.timeout(WAIT_S):
        assert await asked.ended == "it was stopped before it had a process"
    await _until(lambda: len(child_pids()) == 2)  # the zygote and the one that is ready


@pytest.mark.parametrize("pause_s", [0.0, 0.002, 0.005])
async def test_start_that_is_withdrawn_while_everything_ends_leaves_nothing(
    fleet: Fleet, pause_s: float
) -> None:
    """The zygote ends with the news of its last fork unread: that process may be dead, or reaped."""
    await fleet.start().ready()
    asked = fleet.start()
    await asyncio.sleep(0)
    asked.process.kill()
    time.sleep(pause_s)  # noqa: ASYNC251 - the zygote goes on, and this loop does not hear of it
    await fleet.close()
    assert await asked.ended == "it was stopped before it had a process"


def test_child_that_was_reaped_is_left_alone() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    end_child(child.pid)
    end_child(os.getppid())


def test_child_is_ended_and_reaped() -> None:
    child = subprocess.Popen(["sleep", "60"])
    end_child(child.pid)
    assert child.pid not in child_pids()
    child.returncode = 0  # it is not to be waited for again


async def test_zygote_of_an_idle_engine_is_stopped_and_its_replica_is_not(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(idle_s=0.2)
    # The clock runs from the last start on, so this one may find its zygote gone, and is spawned then.
    forked = await fleet.start().ready()
    await _until(lambda: not fleet.launcher.zygotes())
    assert await forked.say("hello") == "hello"


async def test_zygote_is_replaced_when_what_is_installed_changes(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    first = await fleet.start().ready()
    before = fleet.zygote_pid()
    await fleet.start().ready()
    assert fleet.zygote_pid() == before
    (packages / "new_package").mkdir()
    await fleet.start().ready()
    assert fleet.zygote_pid() != before
    assert await first.say("hello") == "hello"


async def test_thirty_starts_leave_no_trace(fleet: Fleet) -> None:
    await (await fleet.start().ready()).end()
    files = psutil.Process().num_fds()
    zygote_files = psutil.Process(fleet.zygote_pid()).num_fds()
    children = set(child_pids())
    for _ in range(30):
        await (await fleet.start().ready()).end()
    assert psutil.Process().num_fds() <= files
    assert psutil.Process(fleet.zygote_pid()).num_fds() <= zygote_files
    assert psutil.Process(fleet.zygote_pid()).children() == []
    assert set(child_pids()) <= children


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - of processes, which set no events
            await asyncio.sleep(0.02)
