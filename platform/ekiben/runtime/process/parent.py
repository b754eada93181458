"""Parents and children: a replica ends with its platform, a worker of `bentoml serve` with its supervisor.

The supervisor of `bentoml serve` leaves its workers serving when it is killed, and starts a worker that
cannot load its model again and again, while clients hang on the open port. Here it marks itself in the
environment of its workers, so that they follow it, and listens for the one signal that says: give up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Final

import click

from ekiben.contract.parent import die_with_parent
from ekiben.settings import export, load_standalone_settings

__all__ = ["die_with_parent", "follow_supervisor", "mark_supervisor", "tell_supervisor_of_failure"]

_GIVE_UP: Final = signal.SIGUSR1


def mark_supervisor() -> None:
    """Called in the supervisor before it starts workers.

    Workers are told that they live in a container, where BentoML does not start them again: this covers
    those that die without a word. Under the `bentoml` command, a worker's failure ends it with 1 at once.
    """
    export({"EKIBEN_SUPERVISOR_PID": str(os.getpid()), "BENTOML_CONTAINERIZED": "true"})
    context = click.get_current_context(silent=True)
    if context is None or threading.current_thread() is not threading.main_thread():
        return  # somebody's own program, whose signals and exit code are none of our business

    def give_up(number: int, frame: FrameType | None) -> None:
        # The command returns as after an ordinary stop, and this is the last thing that it does.
        context.call_on_close(lambda: sys.exit(1))
        signal.raise_signal(signal.SIGTERM)

    signal.signal(_GIVE_UP, give_up)
    export({"EKIBEN_SUPERVISOR_HEARS": "1"})


def follow_supervisor() -> None:
    """Called in a worker: end when the supervisor does."""
    supervisor_pid = load_standalone_settings().supervisor_pid
    if supervisor_pid is not None:
        die_with_parent(supervisor_pid)


def tell_supervisor_of_failure() -> None:
    """Called in a worker whose model cannot be loaded."""
    settings = load_standalone_settings()
    if settings.supervisor_pid is not None and settings.supervisor_hears:
        os.kill(settings.supervisor_pid, _GIVE_UP)
