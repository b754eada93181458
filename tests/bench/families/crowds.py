"""Clients that ask again as soon as they are answered: how much is answered in a second.

Contenders take turns round by round, so that a noisy machine disturbs all of them alike.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from tests.bench.cold.measure import Bench, Row, say, verdict
from tests.bench.cold.peers import environment
from tests.bench.cold.servers import free_port, running, wait_for_answer
from tests.bench.wire import is_whole, request

CLIENTS: Final = (1, 8, 32)
REQUESTS: Final = 96
"""Of a crowd; a single client has a quarter of them."""
PATIENCE_S: Final = 300
LIBRARY_PATIENCE_S: Final = 1200
"""It computes everything several times."""
INFINITY: Final = "infinity-emb"
OURS: Final = "ekiben"
_INSTALLED: Final = (
    ("torch==2.13.0",),
    (
        "infinity-emb[torch,server]==0.0.77",
        "transformers<4.49",
        "sentence-transformers<4",
        "optimum[onnxruntime]<2",
        "pyarrow<21",
        "click<8.2",
        "typer<0.16",
    ),
)
"""The last one that can be had, and what it does not say that it needs."""
AT_MOST_INFINITY: Final = round(1 / 1.2, 3)
AT_MOST_LIBRARY: Final = round(1 / 0.9, 3)

Speeds: TypeAlias = dict[str, dict[int, list[float]]]
"""By contender and clients, one for each round."""


@dataclass(frozen=True, slots=True)
class Work:
    """What all contenders are asked."""

    unit: str
    """What there are several of in a request."""
    each: int
    """How many."""
    body: Callable[[int], Mapping[str, Any]]
    """Of a request, by its number."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a contender is asked."""

    url: str
    path: str
    model: str

    def request(self, body: Mapping[str, Any]) -> bytes:
        return request(self.path, {**body, "model": self.model})


@contextmanager
def infinity(bench: Bench, folder: Path, *, name: str) -> Iterator[str]:
    """The URL of its server with the same weights. Raises Unavailable."""
    home = environment("infinity", *_INSTALLED, cache=bench.cache)
    port = free_port()
    command = [str(home / "bin" / "infinity_emb"), "v2", "--model-id", str(folder)]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--engine", "torch", "--device", "cpu"]
    with running(command, log=bench.folder / "infinity.log") as process:
        wait_for_answer(f"http://127.0.0.1:{port}/models", process, timeout_s=PATIENCE_S)
        yield f"http://127.0.0.1:{port}"


def contest(bench: Bench, work: Work, contenders: Mapping[str, Door]) -> Speeds:
    speeds: Speeds = {name: {} for name in contenders}
    for clients in CLIENTS:
        for round_number in range(bench.rounds + 1):
            for name, door in contenders.items():
                speed = asyncio.run(asyncio.wait_for(_load(door, work, clients), PATIENCE_S))
                say(f"  {name}, {clients} clients: {speed:.0f} {work.unit} a second")
                if round_number:  # the first one warms up
                    speeds[name].setdefault(clients, []).append(speed)
    return speeds


async def _load(door: Door, work: Work, clients: int) -> float:
    parts = urlsplit(door.url)
    count = REQUESTS if clients > 1 else REQUESTS // 4
    bodies = iter([door.request(work.body(number)) for number in range(count)])
    answered = 0

    async def client() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for asked in bodies:
            writer.write(asked)
            answer = bytearray()
            while not is_whole(answer):
                data = await reader.read(2**18)
                assert data, "the connection was closed"
                answer += data
            assert answer.startswith(b"HTTP/1.1 200"), bytes(answer[:500])
            answered += work.each
        writer.close()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return answered / (time.perf_counter() - started)


def library(program: str, given: Any) -> float:
    """The best of the speeds that a program in a process of its own prints, by batch size."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        timeout=LIBRARY_PATIENCE_S,
    )
    speeds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"  library by batch size: { {batch: round(speed) for batch, speed in speeds.items()} }")
    return max(speeds.values())


def rows(work: Work, speeds: Speeds, best: float) -> Iterator[Row]:
    """`best`: of the library called directly. What must hold is said of the largest crowd."""
    unit = f"{work.unit}_per_s"
    yield {"row": "library, its best batch", unit: round(best, 1)}
    for name, by_clients in speeds.items():
        for clients, each in by_clients.items():
            yield {"row": f"{name}, {clients} clients", unit: round(statistics.median(each), 1)}
    for ours in (name for name in speeds if name.startswith(OURS)):
        for clients in CLIENTS:
            last = clients == CLIENTS[-1] and ours == OURS
            if INFINITY in speeds:
                ratio = _by_round(speeds[INFINITY][clients], speeds[ours][clients])
                limit = AT_MOST_INFINITY if last else None
                yield verdict(f"{INFINITY} / {ours}, {clients} clients", ratio, at_most=limit)
            ratio = round(best / statistics.median(speeds[ours][clients]), 3)
            yield verdict(
                f"library / {ours}, {clients} clients", ratio, at_most=AT_MOST_LIBRARY if last else None
            )


def _by_round(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 3)
