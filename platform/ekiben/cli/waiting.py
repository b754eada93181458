"""What a user sees while a model is brought up: its stage and progress, on standard error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from ekiben.cli.client import Platform, model_path
from ekiben.cli.output import clean, format_seconds, format_share
from ekiben.errors import EkibenError

LOOK_EVERY_S: Final = 0.25


@contextmanager
def notice_of(platform: Platform, model: str) -> Iterator[Callable[[], None]]:
    """Tell how the model gets on until the context ends, or until the function that it gives is called."""
    notice = Notice(platform, model, terminal=sys.stderr.isatty())
    notice.start()
    try:
        yield notice.stop
    finally:
        notice.stop()


class Notice:
    """Looks at the model's status from a thread; says nothing while the model is ready."""

    def __init__(self, platform: Platform, model: str, *, terminal: bool) -> None:
        self._platform = platform
        self._model = model
        self._terminal = terminal
        self._over = threading.Event()
        self._shown = ""
        self._thread = threading.Thread(target=self._watch, name=f"notice {model}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No more is told after this. May be called again."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join(timeout=1.0)
        if self._terminal and self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                status = self._platform.get(model_path(self._model))
            except EkibenError:
                return  # the request itself will tell
            if not self._over.is_set():
                self._show(status)

    def _show(self, status: dict[str, Any]) -> None:
        if status["state"] in ("cold", "ready", "failed"):
            return
        # Elsewhere than on a terminal, a line for each stage is enough.
        text = _sentence(self._model, status, with_progress=self._terminal)
        if text == self._shown:
            return
        self._shown = text
        click.echo(f"\r\x1b[K{text}" if self._terminal else text, nl=not self._terminal, err=True)


def _sentence(model: str, status: dict[str, Any], *, with_progress: bool) -> str:
    text = f"{model}: {clean(status['stage'])}"
    if with_progress and status.get("progress") is not None:
        text += f" {format_share(status['progress'])}"
    if with_progress and status.get("eta_s") is not None:
        text += f", {format_seconds(status['eta_s'])} left"
    return text
