"""`python -m tests.bench.scripted_replica SOCKET TOKEN_MS SLOTS [step]`: an engine that costs very little.

It answers every completion with as many tokens as `max_tokens` asks for, one each TOKEN_MS, at most SLOTS
requests at a time, so that what a platform adds to an engine can be told from the engine. With `step` the
tokens of all requests come at the same moments, as from an engine that computes them in one batch.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from ekiben.runtime.process.handoff import Handoffs
from ekiben.runtime.protocol import HANDOFF_HEADER

HEAD_END: Final = b"\r\n\r\n"
HANDOFF: Final = re.compile(rb"(?i)\r\n" + HANDOFF_HEADER + rb": *(\S+)")
LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
EVENT: Final = (
    b"data: "
    + json.dumps(
        {
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "scripted",
            "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
        }
    ).encode()
    + b"\n\n"
)
DONE: Final = b"data: [DONE]\n\n"
ALIVE: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Engine:
    """Its slots, and the time that a token takes."""

    def __init__(self, *, token_s: float, slots: int, in_step: bool) -> None:
        self.handoffs = Handoffs()
        self.token_s = token_s
        self.in_step = in_step
        self.slots = asyncio.Semaphore(slots)

    def begin_s(self, now_s: float) -> float:
        """From when on the tokens of a request are counted."""
        return now_s - now_s % self.token_s if self.in_step and self.token_s else now_s


class Connection(asyncio.Protocol):
    """One client; one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(HEAD_END)
        length, name = LENGTH.search(head), HANDOFF.search(head)
        if not found or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        if not body:  # somebody asks whether it lives
            self._transport.write(ALIVE)
            return
        wanted = json.loads(body)
        self._token = name[1] if name else b"%d" % id(self)
        if self._engine.token_s:
            self._task = asyncio.create_task(self._take_time(wanted))
        elif wanted.get("stream"):
            self._task = asyncio.create_task(self._stream(wanted["max_tokens"]))
        else:
            self._answer(wanted["max_tokens"])

    async def _take_time(self, wanted: dict[str, Any]) -> None:
        async with self._engine.slots:
            if wanted.get("stream"):
                await self._stream(wanted["max_tokens"])
            else:
                await asyncio.sleep(self._engine.token_s * wanted["max_tokens"])
                self._answer(wanted["max_tokens"])

    async def _stream(self, tokens: int) -> None:
        """Each token when it is due, as from a device that does not care how busy the processor is."""
        now = asyncio.get_running_loop().time
        due = self._engine.begin_s(now())
        self._transport.write(STREAM_HEAD)
        stream = self._engine.handoffs.open(self._token)
        try:
            for _ in range(tokens):
                due += self._engine.token_s
                await asyncio.sleep(max(0.0, due - now()))
                if not await stream.write(EVENT):
                    stream.relayed(len(EVENT))
                    self._transport.write(chunk(EVENT))
        finally:
            self._engine.handoffs.end(self._token)
        self._transport.write(chunk(DONE) + b"0\r\n\r\n")

    def _answer(self, tokens: int) -> None:
        body = json.dumps({"choices": [{"index": 0, "text": " token" * tokens}]}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(socket: str, engine: Engine) -> None:
    engine.handoffs.begin(Path(socket))
    server = await asyncio.get_running_loop().create_unix_server(lambda: Connection(engine), socket)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    path, token_ms, slots, *step = sys.argv[1:]
    uvloop.run(serve(path, Engine(token_s=float(token_ms) / 1000, slots=int(slots), in_step=bool(step))))
