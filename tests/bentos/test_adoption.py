"""Replicas whose platform was killed: who takes them over, and what becomes of those that nobody takes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ekiben.fleet.call import call
from ekiben.fleet.processes import adoption
from ekiben.fleet.processes.berths import PROCESS_FILE, Berths, Plan
from ekiben.fleet.processes.launcher import Adopted, Launcher
from ekiben.runtime.protocol import ADOPT_PATH, ORDER_FILE
from tests.bentos.processes import ROOT
from tests.bentos.stand_in import make_launcher

WAIT_S = 60.0
KillPlatform = Callable[..., list["Orphan"]]


class Orphan:
    """A replica whose platform is gone."""

    def __init__(self, home: Path, number: int) -> None:
        self.home = home
        self.folder = home / "run" / "replicas" / f"r{number}"
        pid, _ = (self.folder / PROCESS_FILE).read_text().split()
        self.process = psutil.Process(int(pid))

    def edit_order(self, **changes: object) -> None:
        order = self.folder / ORDER_FILE
        order.write_text(json.dumps(json.loads(order.read_text()) | changes))

    @property
    def log(self) -> str:
        return (self.home / "logs" / "polly.log").read_text()

    @property
    def lives(self) -> bool:
        """A process that has ended may still wait for whoever became its parent."""
        try:
            return self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def gone(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.lives:  # noqa: ASYNC110 - it is nobody's child here
                await asyncio.sleep(0.02)


@pytest.fixture
def kill_platform(folder: Path, parrot_path: str) -> Iterator[KillPlatform]:
    """`kill_platform(count=1)`: a platform with so many replicas, killed when they are ready."""
    made: list[Orphan] = []

    def kill(
        *, count: int = 1, load: str = "well", orphan_s: float = 60, kind: str = "fork", when: str = "ready"
    ) -> list[Orphan]:
        (folder / "cracker").write_bytes(b"cracker")
        options = json.dumps({"load": load, "pause_s": 60})
        arguments = [str(folder), str(orphan_s), kind, str(count), options]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.bentos.stand_in", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": parrot_path},
            text=True,
        ) as platform:
            assert platform.stdout is not None
            said = [platform.stdout.readline().strip()]
            while said[-1] == "loading" != when:
                said.append(platform.stdout.readline().strip())
            platform.kill()
        assert said[-1] == when, said
        made.extend(Orphan(folder, number) for number in range(1, count + 1))
        return made

    yield kill
    for orphan in made:
        if orphan.lives:
            orphan.process.kill()


class Next:
    """The platform after it, in this process."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self.ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def adopt(self, wanted: Callable[[Plan], bool] = lambda plan: True) -> list[Adopted]:
        return [
            *await self.launcher.adopt(
                wanted=wanted, on_exit=lambda replica_id, reason: self.ended.put_nowait((replica_id, reason))
            )
        ]

    async def end(self) -> tuple[str, str]:
        """The next that has ended."""
        async with asyncio.timeout(WAIT_S):
            return await self.ended.get()


@pytest.fixture
async def platform(folder: Path) -> AsyncIterator[Next]:
    made = Next(make_launcher(folder, orphan_s=60, kind="spawn"))
    yield made
    made.launcher.close()
    assert not list((folder / "run").iterdir())


async def test_ready_replica_is_adopted_and_serves_on(kill_platform: KillPlatform, platform: Next) -> None:
    (orphan,) = kill_platform()
    (adopted,) = await platform.adopt()
    assert (adopted.replica_id, adopted.plan.model.name, adopted.plan.device) == ("r1", "polly", "cpu")
    assert adopted.process.pid == orphan.process.pid
    assert adopted.memory["cpu"] > 10**7
    assert await call(adopted.process.address, "GET", "/v1/models") == 200
    for _ in range(500):
        if "the parrot is interrupted" in orphan.log:
            break
        await asyncio.sleep(0.02)
    assert "the parrot is interrupted" in orphan.log, "what it did for the old platform is over"
    assert platform.ended.empty()
    adopted.process.terminate()
    replica_id, reason = await platform.end()
    assert replica_id == "r1" and "exit code is not known" in reason
    assert "the parrot flies away" in orphan.log, "it was let end"
    assert not orphan.folder.exists()
    assert adopted.process.memory() is None
    adopted.process.kill()  # harmless by now


async def test_adopted_replica_belongs_to_a_platform_that_is_there(
    kill_platform: KillPlatform, platform: Next
) -> None:
    (orphan,) = kill_platform(kind="spawn")
    (adopted,) = await platform.adopt()
    address = adopted.process.address
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    assert await call(address, "POST", f"{ADOPT_PATH}?pid={ended.pid}") == 409
    assert await call(address, "POST", f"{ADOPT_PATH}?pid=-1") == 409
    assert await call(address, "POST", ADOPT_PATH) == 409
    assert await call(address, "GET", ADOPT_PATH) == 405
    adopted.process.kill()
    await platform.end()
    assert not orphan.lives


async def test_what_cannot_serve_on_is_ended_and_nothing_else(
    kill_platform: KillPlatform, platform: Next, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "ANSWER_S", 2.0)
    good, hung, older, unwanted, stale, noted_wrongly = kill_platform(count=6)
    hung.process.send_signal(signal.SIGSTOP)
    older.edit_order(version="0.0.1")
    unwanted.edit_order(threads=7)
    long_ago = (stale.home / "cracker").stat().st_ctime - 10
    os.utime(stale.folder / ORDER_FILE, (long_ago, long_ago))  # as if the weights had been put there since
    stranger = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    (noted_wrongly.folder / PROCESS_FILE).write_text(f"{stranger.pid} 1")
    (adopted,) = await platform.adopt(lambda plan: plan.threads != 7)
    assert adopted.process.pid == good.process.pid
    for orphan in (hung, older, unwanted, stale):
        assert not orphan.lives and not orphan.folder.exists()
    assert stranger.returncode is None and psutil.Process(stranger.pid).is_running()
    assert not noted_wrongly.folder.exists()
    stranger.kill()
    await stranger.wait()
    adopted.process.kill()
    await platform.end()


async def test_replica_that_nobody_adopts_ends_by_itself_and_leaves_nothing(
    kill_platform: KillPlatform, platform: Next
) -> None:
    (orphan,) = kill_platform(orphan_s=0.1)
    await orphan.gone()
    assert "no platform came" in orphan.log and "the parrot flies away" in orphan.log
    assert not orphan.folder.exists()
    assert await platform.adopt() == []


async def test_replica_ends_with_its_platform_where_that_is_wanted(
    kill_platform: KillPlatform, platform: Next
) -> None:
    (orphan,) = kill_platform(orphan_s=0)
    await orphan.gone()
    assert "the platform is gone" not in orphan.log
    assert await platform.adopt() == []


async def test_replica_that_still_loads_ends_with_its_platform(
    kill_platform: KillPlatform, platform: Next
) -> None:
    (orphan,) = kill_platform(load="slow", when="loading")
    await orphan.gone()
    assert await platform.adopt() == []


def test_folder_of_replicas_is_found_again_where_the_home_has_a_long_path(tmp_path: Path) -> None:
    run = tmp_path / ("x" * 100)
    first = Berths(run_folder=run, log_folder=tmp_path)
    assert len(str(first.folder)) < 60
    again = Berths(run_folder=run, log_folder=tmp_path)
    assert again.folder == first.folder
    again.close()
    assert not first.folder.exists() and not list(run.iterdir())
    assert Berths(run_folder=run, log_folder=tmp_path).folder != first.folder
