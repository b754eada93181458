"""Texts a second that become vectors: the platform, infinity-emb, and the library called directly.

The library computes all texts at once, in the batches that suit it best. Vectors travel in base64, as the
official SDK asks for them. The platform takes part a second time with ONNX Runtime, for comparison only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.cold.ekiben import add, platform
from tests.bench.cold.measure import Bench, Row, Unavailable
from tests.bench.families.crowds import INFINITY, OURS, REQUESTS, Door, Work, contest, infinity, library, rows
from tests.bench.home import weights_of
from tests.running import Platform

MODEL: Final = "all-minilm-l6-v2"
TEXTS: Final = 4
"""Of one request."""
BATCHES: Final = (8, 16, 32, 64, 128)
ONNX: Final = f"{OURS} (onnx)"
ONNX_MODEL: Final = "minilm-onnx"

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
    return {"input": texts, "encoding_format": "base64"}


WORK: Final = Work("texts", TEXTS, body)


def run(bench: Bench) -> Iterator[Row]:
    folder = weights_of(MODEL, bench.weights)
    with platform(bench, "vectors") as ours:
        _add(ours, folder)
        contenders = {
            OURS: Door(ours.url, "/v1/embeddings", MODEL),
            ONNX: Door(ours.url, "/v1/embeddings", ONNX_MODEL),
        }
        try:
            with infinity(bench, folder, name=MODEL) as url:
                theirs = {INFINITY: Door(url, "/embeddings", MODEL)}
                speeds = contest(bench, WORK, contenders | theirs)
        except Unavailable as reason:
            yield {"row": INFINITY, "unavailable": str(reason)}
            speeds = contest(bench, WORK, contenders)
    texts = [text(number) for number in range(REQUESTS * TEXTS)]
    best = max(library(_LIBRARY, [str(folder), texts, BATCHES]) for _ in range(bench.rounds))
    yield from rows(WORK, speeds, best)


def _add(running: Platform, folder: Path) -> None:
    variant = {
        "format": "safetensors",
        "engine": "sentence_transformers",
        "source": {"kind": "local", "path": str(folder)},
        "options": {"backend": "onnx"},
    }
    spec = {"name": ONNX_MODEL, "family": "embedding", "abilities": ["embed"], "variants": [variant]}
    add(running, spec)
