"""Who a replica belongs to: the platform that started it, or, when that was killed, one that adopts it.

A ready model is worth keeping while a platform is started anew. So a replica that is ready does not end
with its platform but watches it, and when it is gone waits a while for the next one on the same home. The
requests of the old one have ended with it: their connections were its.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

from ekiben.contract.parent import outlive_parent
from ekiben.runtime.http import Message, Receive, Scope, Send
from ekiben.runtime.protocol import ADOPT_PATH

logger = logging.getLogger(__name__)

_END_S: Final = 20
"""An engine that does not unload in that time is ended with the process."""
_NO_CONTENT: Final = 204
_NOT_ALLOWED: Final = 405
_CONFLICT: Final = 409


class Custody:
    """Of one replica. Begins when it is ready; `on_abandoned` is called when no platform came in time."""

    def __init__(self, *, orphan_s: float, on_abandoned: Callable[[], None]) -> None:
        self.orphaned = False
        self._abandoned = False
        self._orphan_s = orphan_s
        self._on_abandoned = on_abandoned
        self._pid_fd: int | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def begin(self, platform_pid: int) -> None:
        """Watch the platform from now on, instead of ending with it. On the main thread."""
        if self._orphan_s > 0:
            self._watch(os.pidfd_open(platform_pid))  # before: so it cannot be missed
            outlive_parent()

    def pass_to(self, platform_pid: int) -> bool:
        """Belong to another platform. False when it is too late, or when that one is not there."""
        if self._abandoned:
            return False
        try:
            pid_fd = os.pidfd_open(platform_pid)
        except OSError:
            return False
        self._unwatch()
        if self._waiting is not None:
            self._waiting.cancel()
        self.orphaned = False
        self._watch(pid_fd)
        logger.info("adopted by the platform %d", platform_pid)
        return True

    def give_up(self) -> None:
        """End now, without a platform: there is nothing that the next one could take over."""
        self.orphaned = True
        self._abandon()

    def _watch(self, pid_fd: int) -> None:
        self._pid_fd = pid_fd
        asyncio.get_running_loop().add_reader(pid_fd, self._orphaned)

    def _unwatch(self) -> None:
        if self._pid_fd is not None:
            asyncio.get_running_loop().remove_reader(self._pid_fd)
            os.close(self._pid_fd)
            self._pid_fd = None

    def _orphaned(self) -> None:
        self._unwatch()
        self.orphaned = True
        logger.warning("the platform is gone: waiting %g s for another one", self._orphan_s)
        self._waiting = asyncio.get_running_loop().call_later(self._orphan_s, self._abandon)

    def _abandon(self) -> None:
        logger.warning("no platform came: the replica ends")
        self._abandoned = True
        signal.alarm(_END_S)  # there is nobody who would kill it
        self._on_abandoned()


class Adoptable:
    """The application of a replica that a platform started, with the one route that is for platforms.

    It is reached through the replica's own socket alone, which only its user may connect to.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], custody: Custody) -> None:
        self._app = app
        self._custody = custody

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == ADOPT_PATH:
            await self._adopt(scope, send)
        else:
            await self._app(scope, receive, send)

    async def _adopt(self, scope: Scope, send: Send) -> None:
        (pid,) = parse_qs(scope["query_string"].decode("latin-1")).get("pid", ["0"])
        if scope["method"] != "POST":
            status = _NOT_ALLOWED
        elif pid.isdecimal() and self._custody.pass_to(int(pid)):
            status = _NO_CONTENT
        else:
            status = _CONFLICT
        start: Message = {"type": "http.response.start", "status": status, "headers": []}
        end: dict[str, Any] = {"type": "http.response.body", "body": b""}
        await send(start)
        await send(end)
