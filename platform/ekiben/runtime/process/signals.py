"""SIGTERM and SIGINT around a model's load, where nothing is in flight and nobody can be let down.

Some native libraries install handlers of their own while they load; afterwards Python's are put back,
or the server would never learn that it is to stop.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Within, a request to stop ends the process immediately: a load cannot be interrupted otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; here the application is a guest in a test
        return
    before = {number: signal.signal(number, _end) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)
