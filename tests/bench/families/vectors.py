"""Texts a second that become vectors: the platform, infinity-emb, and the library called directly.

Every client asks again as soon as it is answered. The library computes all texts at once, in the batches that
suit it best. Vectors travel in base64, as the official SDK asks for them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench.cold.ekiben import platform
from tests.bench.cold.measure import Bench, Row, Unavailable, say, verdict
from tests.bench.cold.peers import environment
from tests.bench.cold.servers import free_port, running, wait_for_answer
from tests.bench.home import weights_of
from tests.bench.wire import is_whole, request

MODEL: Final = "all-minilm-l6-v2"
CLIENTS: Final = (1, 8, 32)
TEXTS: Final = 4
"""Of one request."""
REQUESTS: Final = 96
BATCHES: Final = (8, 16, 32, 64, 128)
PATIENCE_S: Final = 300
INFINITY: Final = (
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

_LIBRARY: Final = """
import json, sys, time
from sentence_transformers import SentenceTransformer
folder, texts, batches = json.loads(sys.stdin.read())
model = SentenceTransformer(folder, device="cpu")
model.encode(texts[:32])
speeds = {}
for batch in batches:
    started = time.perf_counter()
    model.encode(texts, batch_size=batch)
    speeds[batch] = len(texts) / (time.perf_counter() - started)
print(json.dumps(speeds))
"""


def text(number: int) -> str:
    """Between 20 and 60 words, no two alike."""
    words = 20 + number * 7 % 41
    return f"passenger {number} " + " ".join(f"station{(number + index) % 89}" for index in range(words))


def body(number: int) -> dict[str, Any]:
    texts = [text(number * TEXTS + index) for index in range(TEXTS)]
    return {"model": MODEL, "input": texts, "encoding_format": "base64"}


def run(bench: Bench) -> Iterator[Row]:
    folder = weights_of(MODEL, bench.weights)
    with platform(bench, "vectors") as ours:
        contenders = {"ekiben": (ours.url, "/v1/embeddings")}
        try:
            with infinity(bench, folder) as url:
                speeds = _contest(bench, contenders | {"infinity-emb": (url, "/embeddings")})
        except Unavailable as reason:
            yield {"row": "infinity-emb", "unavailable": str(reason)}
            speeds = _contest(bench, contenders)
    library = max(_library(folder) for _ in range(bench.rounds))
    yield {"row": "library, its best batch", "texts_per_s": round(library, 1)}
    yield from _rows(speeds, library)


@contextmanager
def infinity(bench: Bench, folder: Path) -> Iterator[str]:
    """The URL of its server with the same weights. Raises Unavailable."""
    home = environment("infinity", *INFINITY, cache=bench.cache)
    port = free_port()
    command = [str(home / "bin" / "infinity_emb"), "v2", "--model-id", str(folder)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--engine", "torch", "--device", "cpu"]
    with running(command, log=bench.folder / "infinity.log") as process:
        wait_for_answer(f"http://127.0.0.1:{port}/models", process, timeout_s=PATIENCE_S)
        yield f"http://127.0.0.1:{port}"


def _contest(bench: Bench, contenders: dict[str, tuple[str, str]]) -> dict[str, dict[int, list[float]]]:
    """Texts a second by contender and clients, round by round, one after the other."""
    speeds: dict[str, dict[int, list[float]]] = {name: {} for name in contenders}
    for clients in CLIENTS:
        for round_number in range(bench.rounds + 1):
            for name, (url, path) in contenders.items():
                speed = asyncio.run(asyncio.wait_for(_load(url, path, clients), PATIENCE_S))
                say(f"  {name}, {clients} clients: {speed:.0f} texts a second")
                if round_number:  # the first one warms up
                    speeds[name].setdefault(clients, []).append(speed)
    return speeds


async def _load(url: str, path: str, clients: int) -> float:
    parts = urlsplit(url)
    count = REQUESTS if clients > 1 else REQUESTS // 4
    bodies = iter([request(path, body(number)) for number in range(count)])
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
            answered += TEXTS
        writer.close()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return answered / (time.perf_counter() - started)


def _library(folder: Path) -> float:
    texts = [text(number) for number in range(REQUESTS * TEXTS)]
    done = subprocess.run(
        [sys.executable, "-c", _LIBRARY],
        input=json.dumps([str(folder), texts, BATCHES]),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    speeds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(f"  library by batch size: { {batch: round(speed) for batch, speed in speeds.items()} }")
    return max(speeds.values())


def _rows(speeds: dict[str, dict[int, list[float]]], library: float) -> Iterator[Row]:
    for name, by_clients in speeds.items():
        for clients, each in by_clients.items():
            yield {"row": f"{name}, {clients} clients", "texts_per_s": round(statistics.median(each), 1)}
    ours = speeds["ekiben"]
    for clients in CLIENTS:
        last = clients == CLIENTS[-1]
        if "infinity-emb" in speeds:
            ratio = _by_round(speeds["infinity-emb"][clients], ours[clients])
            limit = AT_MOST_INFINITY if last else None
            yield verdict(f"infinity-emb / ekiben, {clients} clients", ratio, at_most=limit)
        ratio = round(library / statistics.median(ours[clients]), 3)
        yield verdict(
            f"library / ekiben, {clients} clients", ratio, at_most=AT_MOST_LIBRARY if last else None
        )


def _by_round(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 3)
