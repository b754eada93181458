"""A wall clock that jumps: row D9. What is timed, is timed by a clock that does not."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest

from tests.mayflies import Mayfly, hear
from tests.running import Platform, wait_until

HOUR_S = 3600
DECADE_S = 10 * 365 * 24 * HOUR_S
FURTHER = [pytest.param(jump_s, marks=pytest.mark.slow) for jump_s in (HOUR_S, DECADE_S)]
JUMPS = pytest.mark.parametrize("jump_s", [-HOUR_S, *FURTHER])
KEEP_ALIVE_S = 60


class WallClock:
    """What the platform and its replicas take for the time of day."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("the clock can only be shifted where there is a C compiler")
        self.library, self._shift = folder / "shifted_clock.so", folder / "shift"
        source = Path(__file__).parents[1] / "fixtures" / "shifted_clock.c"
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(self.library), str(source)]
        subprocess.run(command, check=True)
        self.shift(0)

    def shift(self, seconds: int) -> None:
        """In place, since it is mapped by those who look at it."""
        fd = os.open(self._shift, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, struct.pack("q", seconds), 0)
        os.close(fd)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "SHIFTED_CLOCK": str(self._shift)}


@pytest.fixture(scope="module")
def wall_clock(tmp_path_factory: pytest.TempPathFactory) -> WallClock:
    return WallClock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def pond(
    make_platform: Callable[..., Platform], with_mayflies: dict[str, str], wall_clock: WallClock
) -> Platform:
    """A platform whose wall clock is ours."""
    env = with_mayflies | wall_clock.environment
    return make_platform("--keep-alive", str(KEEP_ALIVE_S), env=env).start()


@pytest.fixture(autouse=True)
def right_time(wall_clock: WallClock) -> None:
    wall_clock.shift(0)


def test_d9_the_shifted_clock_is_what_the_platform_sees(
    hatch: Callable[..., Mayfly], wall_clock: WallClock
) -> None:
    wall_clock.shift(DECADE_S)
    created = datetime.fromisoformat(hatch().status["created_at"])
    assert created.year >= datetime.now(UTC).year + 9


@JUMPS
def test_d9_idle_models_are_neither_unloaded_nor_kept_by_a_jump(
    hatch: Callable[..., Mayfly], wall_clock: WallClock, jump_s: int
) -> None:
    kept, going = hatch("kept"), hatch("going", keep_alive="1s")
    kept.ask()
    pid = kept.pid
    with going.stream("one !gate two") as body:
        hear(body, "one")
        wall_clock.shift(jump_s)
        going.open_gate()
        assert body.read().endswith(b"data: [DONE]\n\n")
    going.wait_for("cold")
    assert KEEP_ALIVE_S - 55 < kept.status["unloads_in_s"] <= KEEP_ALIVE_S
    assert kept.ask() == "hello"
    assert kept.pid == pid and len(kept.loads) == 1


@JUMPS
def test_d9_pauses_after_failures_are_as_long_as_they_were(
    hatch: Callable[..., Mayfly], wall_clock: WallClock, jump_s: int
) -> None:
    fly = hatch(load="!exit")
    with pytest.raises(openai.APIStatusError):
        fly.ask()
    wall_clock.shift(jump_s)
    retry_in_s = fly.status["retry_in_s"]
    assert retry_in_s is None or 0 <= retry_in_s <= 2
    fly.become()
    assert wait_until(lambda: answer_or_none(fly), "the pause to end", timeout_s=20) == "hello"


def answer_or_none(fly: Mayfly) -> str | None:
    try:
        return fly.ask()
    except openai.APIStatusError:
        return None


@JUMPS
def test_d9_no_duration_is_negative_or_absurd(
    hatch: Callable[..., Mayfly], wall_clock: WallClock, jump_s: int
) -> None:
    """A start and a request that a jump happens in the middle of."""
    fly = hatch(load="!gate")
    with fly.stream("one two") as body:
        fly.wait_for_load()
        wall_clock.shift(jump_s)
        fly.open_gate()
        assert body.read().endswith(b"data: [DONE]\n\n")
    second = hatch("second")
    second.ask()
    for model in (fly, second):
        log = (model.platform.home / "logs" / f"{model.name}.log").read_text()
        seconds = [float(number) for number in re.findall(r" (-?\d+\.\d\d) s\b", log)]
        assert seconds and all(0 <= number < 100 for number in seconds), log
    for line in metrics_of(fly.platform):
        name, _, value = line.rpartition(" ")
        if name.partition("{")[0].endswith("_seconds_sum"):
            assert 0 <= float(value) < 1000, line


def metrics_of(platform: Platform) -> list[str]:
    with urllib.request.urlopen(f"{platform.url}/metrics", timeout=30) as response:
        lines: list[str] = response.read().decode().splitlines()
    return [line for line in lines if not line.startswith("#")]
