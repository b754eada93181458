"""vLLM's cold start under the platform, beside `vllm serve`, to the first token of a streamed chat.

The platform's is timed from the request, with the zygote that a platform in use has; a server's from its
command. `vllm serve` comes in two ways: as it is, and with the platform's flags, which spare it compiling.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Contender, Row, Shoot, Shot, alternate, number, rows_of
from tests.bench.text.vllm_servers import NAME, platform, server, wait_for_first_token

OURS: Final = "vllm: cold start, the platform"
STOCK: Final = "vllm: cold start, vllm serve as it comes"
ALIKE: Final = "vllm: cold start, vllm serve with the same flags"
MOST: Final = 0.2
MOST_ROUNDS: Final = 3
"""A round takes minutes."""


def run(home: Path, folder: Path, *, rounds: int) -> Iterator[Row]:
    contenders = [
        Contender(OURS, lambda: _forked(home, folder)),
        Contender(ALIKE, lambda: _served(home, folder, stock=False)),
        Contender(STOCK, lambda: _served(home, folder, stock=True)),
    ]
    shots, absent = alternate(contenders, rounds=min(rounds, MOST_ROUNDS))
    yield from rows_of(shots)
    yield from absent
    yield from number(f"{OURS} / vllm serve as it comes", shots, ours=OURS, theirs=STOCK, at_most=MOST)
    yield from number(f"{OURS} / vllm serve with the same flags", shots, ours=OURS, theirs=ALIKE)


@contextmanager
def _forked(home: Path, folder: Path) -> Iterator[Shoot]:
    with platform(home, folder) as running:

        def shoot() -> Shot:
            running.post(f"/api/models/{NAME}/stop")
            running.wait_for(NAME, "cold")
            return Shot(wait_for_first_token(running.url), {})

        yield shoot


@contextmanager
def _served(home: Path, folder: Path, *, stock: bool) -> Iterator[Shoot]:
    def shoot() -> Shot:
        began_s = time.monotonic()
        with server(home, folder, stock=stock) as (url, process):
            wait_for_first_token(url, process)
            return Shot(time.monotonic() - began_s, {})

    yield shoot
