"""Requests whose client is the gateway itself: they take the way of all others, and nobody hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ekiben.clock import Clock
from ekiben.gateway.http.asgi import Message, Send
from ekiben.gateway.http.exchange import Exchange

Work: TypeAlias = Callable[[Exchange], Awaitable[None]]
Serve: TypeAlias = Callable[[Exchange, Work], Awaitable[None]]
"""Does the work of an exchange, tells its errors and counts it."""


def errand(
    path: str, hear: Send, *, clock: Clock, request_id: bytes | None = None, body: bytes = b""
) -> Exchange:
    """A POST of JSON. `hear` gets what would be sent. To be made in the task that drives it."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if request_id is not None:
        headers.append((b"x-request-id", request_id))
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    return Exchange(scope, _Sender(body).receive, hear, clock=clock)


class _Sender:
    """Sends one body, and stays."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body or b"", "more_body": False}


class Heard:
    """A whole answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self._pieces: list[bytes] = []

    async def hear(self, message: Message) -> None:
        """What the exchange sends."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self._pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                self.body = b"".join(self._pieces)
                self._pieces.clear()
