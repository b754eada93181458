"""uvicorn as a replica needs it: says when it accepts, drains on SIGTERM, and ends when asked twice."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn

_KEEP_ALIVE_S: Final = 75
"""Longer than the gateway keeps an idle connection, so that it is the one to close them."""


class ReplicaServer(uvicorn.Server):
    """Serves one application on one bound socket until SIGTERM or SIGINT."""

    def __init__(self, app: Any, *, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Unlike uvicorn's, this does not raise the signal again: a drained replica ends with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(0)
        self.should_exit = True
