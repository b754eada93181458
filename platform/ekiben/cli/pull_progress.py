"""How a download shows: a bar on a terminal, a line now and then elsewhere. Both on standard error."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import click

from ekiben.cli.output import format_bytes, format_seconds
from ekiben.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from ekiben.contract.source import FetchProgress

LINE_AT_LEAST_EVERY_S: Final = 10.0
LINE_AT_MOST_EVERY_S: Final = 1.0
LINE_EVERY_SHARE: Final = 0.05


class Display(AbstractContextManager["Display"], Protocol):
    def show(self, progress: FetchProgress) -> None:
        """News of the fetch."""


def make_display(name: str, *, terminal: bool) -> Display:
    return Bar(name) if terminal else Lines(name)


class Pace:
    """Speed and time left, from how far a fetch was and is. What was there before does not count."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._start: tuple[float, int] | None = None

    def measure(self, progress: FetchProgress) -> tuple[float | None, float | None]:
        """Bytes per second and seconds left, each None while it cannot be told."""
        now = self._clock.monotonic()
        if self._start is None or progress.done_bytes < self._start[1]:
            self._start = (now, progress.done_bytes)
        elapsed_s, came_bytes = now - self._start[0], progress.done_bytes - self._start[1]
        if elapsed_s <= 0 or came_bytes <= 0:
            return None, None
        speed = came_bytes / elapsed_s
        if progress.total_bytes is None:
            return speed, None
        return speed, max(0, progress.total_bytes - progress.done_bytes) / speed


class Lines:
    """A line for each twentieth of the way, but no flood of them, and no long silence."""

    def __init__(self, name: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._name = name
        self._clock = clock
        self._pace = Pace(clock)
        self._last_s: float | None = None
        self._last_share = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, progress: FetchProgress) -> None:
        speed, left_s = self._pace.measure(progress)
        share = progress.done_bytes / progress.total_bytes if progress.total_bytes else None
        if not (progress.done_bytes or progress.total_bytes) or not self._is_due(share):
            return
        parts = [f"{self._name}: {format_bytes(progress.done_bytes)}"]
        if progress.total_bytes:
            parts[0] += f" of {format_bytes(progress.total_bytes)} ({share:.0%})"
        if speed is not None:
            parts.append(f"{format_bytes(speed)}/s")
        if left_s is not None:
            parts.append(f"{format_seconds(left_s)} left")
        click.echo(", ".join(parts), err=True)

    def _is_due(self, share: float | None) -> bool:
        now = self._clock.monotonic()
        waited_s = LINE_AT_LEAST_EVERY_S if self._last_s is None else now - self._last_s
        moved = share is not None and (share - self._last_share >= LINE_EVERY_SHARE or share >= 1)
        if waited_s < (LINE_AT_MOST_EVERY_S if moved else LINE_AT_LEAST_EVERY_S):
            return False
        self._last_s, self._last_share = now, share or 0.0
        return True


class Bar:
    """rich's progress bar with bytes, speed and time left."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: FetchProgress) -> None:
        self._bar.update(self._task, completed=progress.done_bytes, total=progress.total_bytes)
