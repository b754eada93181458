"""Our batcher beside BentoML's `batchable`: the same model, one worker each, from 1 to 64 clients.

`ekiben` is a replica as the platform runs it, `bentoml` a service under `bentoml serve`. `dispatcher` is the
same service in the server of our replicas: what is left of the difference is between the two batchers alone.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import uvloop

from tests.bench.cold.measure import Bench, Row, say
from tests.bench.cold.servers import free_port, running, wait_for_answer
from tests.bench.families.batcher_server import MODEL_NAME, MODEL_VARIABLE
from tests.bench.home import weights_of
from tests.bench.text.load import percentile
from tests.bench.wire import request

CLIENTS: Final = (1, 8, 32, 64)
ROUND_S: Final = 4.0
WARM_S: Final = 3.0
"""Both learn from what they have seen."""
MAX_ROUNDS: Final = 3
MUST_THROUGHPUT: Final = 1.8
MUST_P99: Final = 0.25
MUST_AT: Final = 8
"""Clients, of the toy."""
STOCK: Final = "tests.bench.families.stock_service:Stock"
SIDES: Final = ("ekiben", "bentoml", "dispatcher")


@dataclass
class Seen:
    """Of one side with so many clients: a value for each round."""

    per_s: list[float] = field(default_factory=list)
    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)

    def row(self) -> Row:
        return {
            "requests_per_s": round(statistics.median(self.per_s), 1),
            "p50_ms": round(1000 * statistics.median(self.p50_s), 1),
            "p99_ms": round(1000 * statistics.median(self.p99_s), 1),
        }


def run(bench: Bench) -> Iterator[Row]:
    yield from _compare(bench, "20 ms + 1 ms per item", "toy")
    yield from _compare(bench, MODEL_NAME, str(weights_of(MODEL_NAME, bench.weights)))


def _compare(bench: Bench, what: str, model: str) -> Iterator[Row]:
    with ExitStack() as stack:
        ports = {side: _serve(stack, bench, side, model) for side in SIDES}
        for clients in CLIENTS:
            seen = {side: Seen() for side in SIDES}
            for side in SIDES:
                _load(side, ports[side], clients=clients, seconds=WARM_S)
            for _ in range(min(MAX_ROUNDS, bench.rounds)):
                for side in SIDES:
                    _note(seen[side], _load(side, ports[side], clients=clients, seconds=ROUND_S))
            row = _row(f"{what}, {clients} clients", seen, must=model == "toy" and clients == MUST_AT)
            say(f"  {row}")
            yield row


def _serve(stack: ExitStack, bench: Bench, side: str, model: str) -> int:
    """The port of a server that answers."""
    folder = bench.folder / f"{side}-{Path(model).name}"
    for name in ("home", "metrics"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    env = {
        "BENTOML_HOME": str(folder / "home"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    port = free_port()
    if side == "bentoml":
        env[MODEL_VARIABLE] = model
        address = ("--host", "127.0.0.1", "--port", str(port))
        command = [sys.executable, "-m", "bentoml", "serve", STOCK, *address]
    else:
        command = [sys.executable, "-m", "tests.bench.families.batcher_server", side, model, str(port)]
    process = stack.enter_context(running(command, log=folder / "log", env=env))
    wait_for_answer(f"http://127.0.0.1:{port}/livez", process)
    return port


def _note(seen: Seen, taken_s: list[float]) -> None:
    seen.per_s.append(len(taken_s) / ROUND_S)
    seen.p50_s.append(percentile(taken_s, 0.5))
    seen.p99_s.append(percentile(taken_s, 0.99))


def _row(what: str, seen: dict[str, Seen], *, must: bool) -> Row:
    sides = {side: seen[side].row() for side in SIDES}
    ours, theirs = sides["ekiben"], sides["bentoml"]
    throughput = ours["requests_per_s"] / theirs["requests_per_s"]
    p99 = ours["p99_ms"] / theirs["p99_ms"]
    row: Row = {"row": what, **sides}
    row |= {"throughput_ratio": round(throughput, 2), "p99_ratio": round(p99, 2)}
    if must:
        row |= {"must": {"throughput_ratio": MUST_THROUGHPUT, "p99_ratio": MUST_P99}}
        row |= {"held": throughput >= MUST_THROUGHPUT and p99 <= MUST_P99}
    return row


def _load(side: str, port: int, *, clients: int, seconds: float) -> list[float]:
    """How long each request took that was answered in the time."""
    return uvloop.run(_ask_all(side, port, clients, seconds))


async def _ask_all(side: str, port: int, clients: int, seconds: float) -> list[float]:
    taken_s: list[float] = []
    numbers = count()
    ends = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (sent := time.perf_counter()) < ends:
            writer.write(_asked(side, next(numbers)))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
            if (now := time.perf_counter()) < ends:
                taken_s.append(now - sent)
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return taken_s


def _asked(side: str, number: int) -> bytes:
    """A text of 1 to 40 words."""
    text = f"{number} " + " ".join(f"word{(number + index) % 97}" for index in range(number * 17 % 40))
    if side == "ekiben":
        return request("/v1/embeddings", {"model": MODEL_NAME, "input": text})
    return request("/embed", {"texts": [text]})
