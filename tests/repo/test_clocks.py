"""Durations are differences of a clock that never jumps: nobody subtracts the time of day (row D9)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("platform/ekiben", "plugins", "bentos")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
WALL = {"now", "utcnow", "today", "timestamp", "st_mtime", "st_ctime", "st_mtime_ns", "create_time", "time"}
"""What tells the time of day, or when something happened by it."""
STEADY = {"loop"}
"""`loop.time()` is steady."""
BY_THE_CALENDAR = {
    "platform/ekiben/fleet/prewarm.py",  # cron lines mean the time of day
    "platform/ekiben/fleet/histories.py",  # over a restart there is no other clock
    "platform/ekiben/gateway/responses/archive.py",  # responses are kept for days, over restarts
}


def wall_clock_differences(source: str) -> Iterator[int]:
    """The lines on which a time of day is a term of a subtraction."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            terms: list[ast.expr] = [node.left, node.right]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Sub):
            terms = [node.value]
        else:
            continue
        if any(_is_wall_clock(part) for term in terms for part in ast.walk(term)):
            yield node.lineno


def _is_wall_clock(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute) or node.attr not in WALL:
        return False
    owner = node.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name.strip("_") not in STEADY


@pytest.mark.parametrize(
    "line",
    [
        "clock.now() - started",
        "SYSTEM_CLOCK.now().timestamp() - path.stat().st_mtime",
        "abs(process.create_time() - born)",
        "left -= time.time()",
    ],
)
def test_d9_the_check_sees_it(line: str) -> None:
    assert list(wall_clock_differences(line)) == [1]


@pytest.mark.parametrize("line", ["clock.monotonic() - started", "self._loop.time() - started", "now() - 1"])
def test_d9_the_check_lets_steady_clocks_pass(line: str) -> None:
    assert list(wall_clock_differences(line)) == []


def test_d9_nobody_subtracts_the_time_of_day() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if str(path.relative_to(ROOT)) not in BY_THE_CALENDAR
        for line in wall_clock_differences(path.read_text(encoding="utf-8"))
    ]
    assert found == []
