"""Cold models of other engines to their first answer, beside the bare library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.bench.cold import bare, ears, ekiben
from tests.bench.cold.measure import Bench, Row, alternate, number, rows_of
from tests.bench.cold.questions import Ask, draw, embed, read, speak, transcribe
from tests.bench.home import weights_of

WHISPER: Final = "whisper-base"


@dataclass(frozen=True, slots=True)
class Contest:
    model: str
    script: str
    ask: Ask


@dataclass(frozen=True, slots=True)
class Ear:
    """Whisper base in another engine."""

    engine: str
    format: str
    script: str
    make: Callable[[Path, Path], Path]


CONTESTS: Final = (
    Contest("all-minilm-l6-v2", bare.EMBEDDING, embed),
    Contest(WHISPER, bare.WHISPER, transcribe),
    Contest("piper-en-us-joe", bare.PIPER, speak),
    Contest("pp-ocr-v6", bare.OCR, read),
    Contest("digits-diffusion", bare.DIGITS, draw),
)
EARS: Final = (
    Ear("whisper", "whisper", bare.OPENAI_WHISPER, ears.checkpoint),
    Ear("transformers", "safetensors", bare.TRANSFORMERS_WHISPER, ears.transformers_folder),
)


def run(bench: Bench) -> Iterator[Row]:
    for contest in CONTESTS:
        yield from _compare(contest, bench, weights_of(contest.model, bench.weights))
    for ear in EARS:
        folder = bench.folder / ear.engine
        folder.mkdir()
        path = ear.make(weights_of(WHISPER, bench.weights), folder)
        name = f"{WHISPER}-{ear.engine}"
        contest = Contest(name, ear.script, partial(transcribe, model=name))
        yield from _compare(contest, bench, path, spec=_spec(name, ear, path))


def _spec(name: str, ear: Ear, path: Path) -> dict[str, Any]:
    source = {"kind": "local", "path": str(path)}
    variant = {"format": ear.format, "engine": ear.engine, "source": source}
    return {"name": name, "family": "audio", "abilities": ["transcribe"], "variants": [variant]}


def _compare(
    contest: Contest, bench: Bench, weights: Path, *, spec: dict[str, Any] | None = None
) -> Iterator[Row]:
    model = contest.model
    fresh, ready = f"{model}: fresh process", f"{model}: imported process"
    ours = f"{model}: ekiben, forked"
    threads = len(os.sched_getaffinity(0))
    shots, absent = alternate(
        [
            bare.fresh(fresh, contest.script, weights=weights, folder=bench.folder / "bare", threads=threads),
            ekiben.cold(bench, ours, model=model, ask=contest.ask, spec=spec),
        ],
        rounds=bench.rounds,
    )
    shots[ready] = bare.imported(shots[fresh])
    yield from rows_of(shots)
    yield from absent
    yield from number(f"cold {model} / imported process", shots, ours=ours, theirs=ready, at_most=1.3)
