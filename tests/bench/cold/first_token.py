"""A cold GGUF model to the first token of a chat, beside the bare engine and other servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from tests.bench.cold import bare, ekiben, llama_router, stock_bentoml, xinference
from tests.bench.cold.measure import Bench, Row, alternate, number, rows_of
from tests.bench.cold.questions import Chat
from tests.bench.home import MODEL, weights_of

BARE: Final = "bare engine, fresh process, default parameters"
ALIKE: Final = "bare engine, fresh process, the platform's parameters"
FORKED: Final = "ekiben, forked"
SPAWNED: Final = "ekiben, spawned"


def run(bench: Bench) -> Iterator[Row]:
    weights = weights_of(MODEL, bench.weights)
    threads = len(os.sched_getaffinity(0))
    scratch = bench.folder / "bare"
    shots, absent = alternate(
        [
            bare.fresh(BARE, bare.LLAMA_DEFAULT, weights=weights, folder=scratch, threads=threads),
            bare.fresh(ALIKE, bare.LLAMA_ALIKE, weights=weights, folder=scratch, threads=threads),
            ekiben.cold(bench, FORKED, model=MODEL, ask=Chat(MODEL)),
            llama_router.cold(bench, weights),
            ekiben.cold(bench, SPAWNED, model=MODEL, ask=Chat(MODEL), env=ekiben.SPAWNED),
            stock_bentoml.cold(bench, weights),
            xinference.cold(bench, weights),
        ],
        rounds=bench.rounds,
    )
    yield from rows_of(shots)
    yield from absent
    yield from number("cold GGUF / bare engine", shots, ours=FORKED, theirs=BARE, at_most=0.7)
    yield from number("cold GGUF / router", shots, ours=FORKED, theirs=llama_router.NAME, at_most=1.0)
    yield from number("cold GGUF / Xinference", shots, ours=FORKED, theirs=xinference.NAME, at_most=0.08)
