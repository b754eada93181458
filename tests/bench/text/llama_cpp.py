"""llama.cpp through the platform, beside the server that its library has, and beside upstream's llama-server.

The library's server is the one inside the replica, reached past everything of ours; llama-server is another
build of the same code, with the same flags.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench.cold.ekiben import platform
from tests.bench.cold.llama_router import llama_server
from tests.bench.cold.measure import Bench, Row, Unavailable, say
from tests.bench.home import MODEL, weights_of
from tests.bench.text.contest import contest
from tests.bench.text.load import Work

OURS: Final = "the platform"
OWN: Final = "the engine's own server"
UPSTREAM: Final = "llama-server"
_SLOTS: Final = 4
_TOKENS: Final = 32


def run(bench: Bench) -> Iterator[Row]:
    with ExitStack() as stack:
        running = stack.enter_context(platform(bench, "text"))
        question = [{"role": "user", "content": "Hello"}]
        running.post("/v1/chat/completions", {"model": MODEL, "messages": question, "max_tokens": 1})
        (replica,) = running.model(MODEL)["replicas"]
        targets = {OURS: running.url, OWN: own_socket(replica)}
        try:
            flags = ["-c", str(_SLOTS * 4096), "-np", str(_SLOTS), "-b", "32", "-ub", "32", "--no-warmup"]
            flags += ["-t", str(len(os.sched_getaffinity(0))), "-ngl", "0"]
            weights = weights_of(MODEL, bench.weights)
            targets[UPSTREAM] = stack.enter_context(llama_server(bench, weights, name=MODEL, flags=flags))
        except Unavailable as reason:
            say(f"  absent: {UPSTREAM}: {reason}")
            yield {"row": UPSTREAM, "unavailable": str(reason)}
        yield from contest(
            "llama_cpp", targets, Work(MODEL, _TOKENS), ours=OURS, rival=OWN, runs=bench.rounds
        )


def own_socket(replica: dict[str, Any]) -> str:
    """Where llama.cpp's server listens, inside the replica."""
    folder = Path(replica["address"].removeprefix("unix://")).parent
    (socket,) = folder.rglob("llama.sock")
    return os.path.relpath(socket)
