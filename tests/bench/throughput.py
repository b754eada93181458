"""Throughput through the platform against the engine's own server, for 1, 8 and 32 clients at once.

Turn by turn, the same streamed completions each way, a connection for each. The engines: a scripted one with
as many slots as a real one and a token each few milliseconds, and llama.cpp's server, which the replica has
on a socket of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import uvloop

from tests.bench.home import MODEL
from tests.bench.scripted_platform import scripted_platform
from tests.bench.text.llama_cpp import own_socket
from tests.bench.wire import ask, request
from tests.running import Platform

CLIENTS: Final = (1, 8, 32)
RUNS: Final = 5
TOKENS: Final = 16
TOKEN_MS: Final = 4
SLOTS: Final = 8
PATIENCE_S: Final = 120


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    with scripted_platform(folder, weights / "weights", token_ms=TOKEN_MS, slots=SLOTS) as scripted:
        yield from _compare("scripted engine", str(scripted.socket), scripted.url, per_client=8)
    real = Platform(folder / "real", weights / "weights").start()
    try:
        real.post("/v1/completions", {"model": MODEL, "prompt": "One", "max_tokens": 1})
        (replica,) = real.model(MODEL)["replicas"]
        yield from _compare(MODEL, own_socket(replica), real.url, per_client=2)
    finally:
        real.stop()


def _compare(engine: str, direct: str, through: str, *, per_client: int) -> Iterator[dict[str, Any]]:
    for clients in CLIENTS:
        count = clients * max(per_client, 16 // clients)
        sides: dict[str, list[float]] = {direct: [], through: []}
        for target in sides:
            _rate(target, clients=clients, count=clients)
        for _ in range(RUNS):
            for target, rates in sides.items():
                rates.append(_rate(target, clients=clients, count=count))
        yield {
            "row": f"{engine}, {clients} at once",
            "engine_requests_per_s": round(statistics.median(sides[direct]), 2),
            "platform_requests_per_s": round(statistics.median(sides[through]), 2),
            "ratio": round(statistics.median(t / d for d, t in zip(*sides.values(), strict=True)), 3),
            "requests": count,
            "runs": RUNS,
        }


def _rate(target: str, *, clients: int, count: int) -> float:
    """Requests per second."""
    started = time.perf_counter()
    uvloop.run(asyncio.wait_for(_ask_all(target, clients=clients, count=count), PATIENCE_S))
    return count / (time.perf_counter() - started)


async def _ask_all(target: str, *, clients: int, count: int) -> None:
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            body = {"model": MODEL, "prompt": f"{number} and", "max_tokens": TOKENS, "temperature": 0}
            await ask(target, request("/v1/completions", body | {"stream": True, "ignore_eos": True}))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
