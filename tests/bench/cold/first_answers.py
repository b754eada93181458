"""Cold models of other engines to their first answer, beside the bare library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.cold import bare, ekiben
from tests.bench.cold.measure import Bench, Row, alternate, number, rows_of
from tests.bench.cold.questions import Ask, draw, embed, read, speak, transcribe
from tests.bench.home import weights_of


@dataclass(frozen=True, slots=True)
class Contest:
    model: str
    script: str
    ask: Ask


CONTESTS: Final = (
    Contest("all-minilm-l6-v2", bare.EMBEDDING, embed),
    Contest("whisper-base", bare.WHISPER, transcribe),
    Contest("piper-en-us-joe", bare.PIPER, speak),
    Contest("pp-ocr-v6", bare.OCR, read),
    Contest("digits-diffusion", bare.DIGITS, draw),
)


def run(bench: Bench) -> Iterator[Row]:
    for contest in CONTESTS:
        yield from _compare(contest, bench)


def _compare(contest: Contest, bench: Bench) -> Iterator[Row]:
    model = contest.model
    fresh, ready = f"{model}: fresh process", f"{model}: imported process"
    ours = f"{model}: ekiben, forked"
    weights = weights_of(model, bench.weights)
    threads = len(os.sched_getaffinity(0))
    shots, absent = alternate(
        [
            bare.fresh(fresh, contest.script, weights=weights, folder=bench.folder / "bare", threads=threads),
            ekiben.cold(bench, ours, model=model, ask=contest.ask),
        ],
        rounds=bench.rounds,
    )
    shots[ready] = bare.imported(shots[fresh])
    yield from rows_of(shots)
    yield from absent
    yield from number(f"cold {model} / imported process", shots, ours=ours, theirs=ready, at_most=1.3)
