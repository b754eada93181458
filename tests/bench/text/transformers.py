"""The transformers engine: what it gains by computing requests together."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench import batching
from tests.bench.cold.measure import Bench, Row


def run(bench: Bench) -> Iterator[Row]:
    yield from batching.run(bench.folder, bench.weights, rounds=bench.rounds)
