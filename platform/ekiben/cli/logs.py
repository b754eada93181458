"""`ekiben logs`: what a model's replicas wrote, read from the home, so also after they are gone."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path
from typing import IO, Final

import click

from ekiben.cli.session import Session
from ekiben.errors import EkibenError

LOOK_EVERY_S: Final = 0.2


@click.command()
@click.argument("name", metavar="MODEL")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=200, show_default=True, help="Lines from the end."
)
@click.pass_obj
def logs(session: Session, name: str, follow: bool, lines: int) -> None:
    """Show what a model's replicas have logged."""
    from ekiben.cli.offline import find_spec
    from ekiben.fleet.processes.launcher import log_path
    from ekiben.plugins.discovery import discover

    home = session.settings.home
    model = find_spec(session, name, discover(home)).name
    path = log_path(home / "logs", model)
    log = _open(path)
    if log is None and not follow:
        raise EkibenError(f"{model!r} has not logged anything: it was never started on {home}")
    if log is not None:
        for line in deque(log, maxlen=lines):
            click.echo(line, nl=False)
    if follow:
        _follow(path, log)


def _follow(path: Path, log: IO[str] | None) -> None:
    """Print what is appended; when a new log takes the file's place, go on with that."""
    pause = threading.Event()
    while not pause.wait(LOOK_EVERY_S):
        replaced = log is None or _is_replaced(log, path)
        if log is not None:
            click.echo(log.read(), nl=False)
        if replaced and (new := _open(path)) is not None:
            log = new


def _open(path: Path) -> IO[str] | None:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _is_replaced(log: IO[str], path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(log.fileno()).st_ino
    except FileNotFoundError:
        return False
