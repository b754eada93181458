"""What the command line prints: numbers for people, tables, progress of a download."""

from __future__ import annotations

import math

import pytest

from ekiben.cli.output import clean, echo_fields, echo_table, format_bytes, format_seconds
from ekiben.cli.pull_progress import Lines, Pace
from ekiben.clock import SystemClock
from ekiben.contract.source import FetchProgress


class Clock(SystemClock):
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


def progress(done: int, total: int | None = 1_000_000) -> FetchProgress:
    return FetchProgress(done_bytes=done, total_bytes=total)


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_400_000, "98.4 MB"),
     (999_960, "1.0 MB"), (4_200_000_000, "4.2 GB"), (7_000_000_000_000, "7000.0 GB")],
)  # fmt: skip
def test_bytes_have_the_unit_that_reads_best(count: int | None, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0.0s"), (0.84, "0.8s"), (9.96, "10s"), (59.4, "59s"), (60, "1m 00s"),
     (272, "4m 32s"), (7500, "2h 05m"), (math.inf, "never")],
)  # fmt: skip
def test_durations_have_the_unit_that_reads_best(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert clean("a\x1b[31mred\nline\x00") == "a [31mred line"


def test_a_table_is_aligned_and_not_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(("NAME", "STATE"), [("x" * 300, "cold"), ("short", "")], empty="none")
    head, long, short = capsys.readouterr().out.splitlines()
    assert head.index("STATE") == long.index("cold") == 302
    assert short == "short".ljust(302) + "-"


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(("NAME",), [], empty="no models")
    assert capsys.readouterr().out == "no models\n"


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    echo_fields([("name", "a"), ("license", ""), ("family", "llm")])
    assert capsys.readouterr().out == "name    a\nfamily  llm\n"


def test_speed_counts_only_what_came_since_the_start() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.measure(progress(500_000)) == (None, None)
    clock.now_s += 2
    assert pace.measure(progress(700_000)) == (100_000, 3.0)
    clock.now_s += 1
    assert pace.measure(progress(700_000, None)) == (200_000 / 3, None)


def test_speed_begins_anew_when_a_download_does() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.measure(progress(500_000))
    clock.now_s += 1
    assert pace.measure(progress(0)) == (None, None)
    clock.now_s += 1
    assert pace.measure(progress(100)) == (100, 9999)


def test_lines_are_neither_a_flood_nor_a_silence(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with make_lines(clock) as lines:
        for step in range(81):  # 10 s at a tenth each second, told eight times a second
            lines.show(progress(step * 12_500))
            clock.now_s += 0.125
    fast = capsys.readouterr().err.splitlines()
    assert fast[0] == "m: 0 B of 1.0 MB (0%)"
    assert fast[1] == "m: 100.0 kB of 1.0 MB (10%), 100.0 kB/s, 9.0s left"
    assert len(fast) == 11
    with make_lines(clock) as lines:
        for _ in range(480):  # a minute in which nothing comes
            lines.show(progress(1000))
            clock.now_s += 0.125
    assert len(capsys.readouterr().err.splitlines()) == 6


def make_lines(clock: Clock) -> Lines:
    return Lines("m", clock)
