"""A service as BentoML's documentation writes it, for `bentoml serve`: a model behind a batchable method."""

from __future__ import annotations

import os

import bentoml

from tests.bench.families.batcher_server import MAX_ITEMS, MODEL_VARIABLE, encoder


@bentoml.service(name="stock", workers=1)
class Stock:
    def __init__(self) -> None:
        self._encode = encoder(os.environ[MODEL_VARIABLE])

    @bentoml.api(batchable=True, max_batch_size=MAX_ITEMS)  # type: ignore[untyped-decorator]
    def embed(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._encode(texts).tolist()
        return rows
