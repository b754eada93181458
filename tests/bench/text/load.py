"""Clients of a text server: streamed chats, so many at once, and when each token came.

Every client takes the next prompt as soon as its last answer is whole. Raw connections, so that the client
costs little on a machine that it shares with the server.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import uvloop

from tests.bench.wire import request

PATIENCE_S: Final = 300
_DATA: Final = b"data: {"
_CONTENT: Final = b'"content":"'
_EMPTY: Final = b'"content":""'


@dataclass(frozen=True, slots=True)
class Work:
    """What each client asks: a chat of some length, answered with so many tokens."""

    model: str
    tokens: int
    words: int = 40
    """Of the prompt; every prompt begins differently, so that no server has it in memory."""

    def request(self, number: int) -> bytes:
        text = f"{number} " + " ".join(f"word{(number + index) % 97}" for index in range(self.words))
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
        }
        return request("/v1/chat/completions", body)


@dataclass(slots=True)
class Tally:
    """One run: its length, and what its clients saw."""

    seconds: float = 0.0
    tokens: int = 0
    first_s: list[float] = field(default_factory=list)
    """From sending the request to its first token."""
    gap_s: list[float] = field(default_factory=list)
    """From a token to the next of the same answer."""

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def run(target: str, work: Work, *, clients: int, requests: int, first: int = 0) -> Tally:
    """`target`: a URL or the path of a unix socket; `first` is the number of the first prompt."""
    tally = Tally()
    started = time.perf_counter()
    uvloop.run(
        asyncio.wait_for(_ask_all(target, work, clients, range(first, first + requests), tally), PATIENCE_S)
    )
    tally.seconds = time.perf_counter() - started
    return tally


async def _ask_all(target: str, work: Work, clients: int, prompts: Sequence[int], tally: Tally) -> None:
    numbers = iter(prompts)

    async def client() -> None:
        for number in numbers:
            await _ask(target, work.request(number), tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def _ask(target: str, asked: bytes, tally: Tally) -> None:
    reader, writer = await _connect(target)
    sent = time.perf_counter()
    last = 0.0
    writer.write(asked)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head + await reader.read(1000)
    while not (line := await reader.readline()).startswith(b"data: [DONE]"):
        assert line, "the answer broke off"
        if not line.startswith(_DATA) or _CONTENT not in line or _EMPTY in line:
            continue
        now = time.perf_counter()
        if last:
            tally.gap_s.append(now - last)
        else:
            tally.first_s.append(now - sent)
        last = now
        tally.tokens += 1
    writer.close()


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if not target.startswith("http:"):
        return await asyncio.open_unix_connection(target)
    parts = urlsplit(target)
    return await asyncio.open_connection(parts.hostname, parts.port)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_of(tallies: Sequence[Tally], share: float, *, gaps: bool) -> float:
    """Over the runs, in milliseconds."""
    runs = [percentile(tally.gap_s if gaps else tally.first_s, share) for tally in tallies]
    return round(1000 * statistics.median(runs), 1)
