"""Documents a second that are ranked by a cross-encoder: the platform, infinity-emb, and the library itself.

The model is the built-in embedder with a head of random numbers: as much work as a real one of its size.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.cold.ekiben import platform
from tests.bench.cold.measure import Bench, Row, Unavailable
from tests.bench.families.crowds import INFINITY, OURS, REQUESTS, Door, Work, contest, infinity, library, rows
from tests.bench.families.vectors import MODEL as EMBEDDER
from tests.bench.families.vectors import text
from tests.bench.home import weights_of
from tests.running import Platform

MODEL: Final = "judge"
DOCUMENTS: Final = 4
"""Of one request."""
BATCHES: Final = (8, 16, 32, 64)

_MAKE: Final = """
import sys
import torch
from transformers import BertForSequenceClassification
torch.manual_seed(7)
model = BertForSequenceClassification.from_pretrained(sys.argv[1], num_labels=1)
model.save_pretrained(sys.argv[2])
"""
_LIBRARY: Final = """
import json, sys, time
from sentence_transformers import CrossEncoder
folder, pairs, batches = json.loads(sys.stdin.read())
pairs = [tuple(pair) for pair in pairs]
model = CrossEncoder(folder, device="cpu")
model.predict(pairs[:32])
speeds = {}
for batch in batches:
    started = time.perf_counter()
    model.predict(pairs, batch_size=batch)
    speeds[batch] = len(pairs) / (time.perf_counter() - started)
print(json.dumps(speeds))
"""


def query(number: int) -> str:
    return f"when does passenger {number} reach station{number % 89}?"


def documents(number: int) -> list[str]:
    return [text(number * DOCUMENTS + index) for index in range(DOCUMENTS)]


def body(number: int) -> dict[str, Any]:
    return {"query": query(number), "documents": documents(number)}


WORK: Final = Work("documents", DOCUMENTS, body)


def run(bench: Bench) -> Iterator[Row]:
    folder = _cross_encoder(weights_of(EMBEDDER, bench.weights), bench.folder / MODEL)
    with platform(bench, "rerank") as ours:
        _add(ours, folder)
        contenders = {OURS: Door(ours.url, "/v1/rerank", MODEL)}
        try:
            with infinity(bench, folder, name=MODEL) as url:
                theirs = {INFINITY: Door(url, "/rerank", MODEL)}
                speeds = contest(bench, WORK, contenders | theirs)
        except Unavailable as reason:
            yield {"row": INFINITY, "unavailable": str(reason)}
            speeds = contest(bench, WORK, contenders)
    pairs = [(query(number), document) for number in range(REQUESTS) for document in documents(number)]
    best = max(library(_LIBRARY, [str(folder), pairs, BATCHES]) for _ in range(bench.rounds))
    yield from rows(WORK, speeds, best)


def _cross_encoder(embedder: Path, folder: Path) -> Path:
    """With the embedder's own tokenizer files, which older libraries read too."""
    subprocess.run([sys.executable, "-c", _MAKE, str(embedder), str(folder)], check=True, capture_output=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(embedder / name, folder / name)
    return folder


def _add(running: Platform, folder: Path) -> None:
    answer = running.post("/api/models", {"path": str(folder), "name": MODEL})
    assert answer.get("error") is None, answer
