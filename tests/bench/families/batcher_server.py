"""`python -m tests.bench.families.batcher_server SIDE MODEL PORT`: one model behind one of two batchers.

Both sides are one process, one event loop, the same uvicorn, the same model. `ekiben`: the embedding Bento as
the platform serves it. `dispatcher`: BentoML's batchable method, in a server that costs less than its own.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ekiben.catalog.specs import resolve_model
from ekiben.contract import Ability, Batching, Embeddings, EmbedRequest, Item, LoadedModel, Run
from ekiben.plugins.discovery import discover

MAX_ITEMS: Final = 32
MODEL_NAME: Final = "all-minilm-l6-v2"
MODEL_VARIABLE: Final = "BATCHER_BENCH_MODEL"
"""Names the model to a service, which cannot be given arguments."""

Vectors = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]


def toy() -> Encode:
    """20 ms, and one for each text, in which another thread may run."""

    def encode(texts: Sequence[str]) -> Vectors:
        time.sleep(0.020 + 0.001 * len(texts))
        return np.zeros((len(texts), 8), dtype=np.float32)

    return encode


def minilm(folder: Path) -> Encode:
    """The library as it comes, on one core: the other is for HTTP."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = model.encode(list(texts), batch_size=MAX_ITEMS, show_progress_bar=False)
        return vectors

    encode(["warm"])
    return encode


def encoder(model: str) -> Encode:
    """`toy`, or the folder of a model."""
    return toy() if model == "toy" else minilm(Path(model))


class Together:
    """The model as an engine hands it out."""

    max_items = MAX_ITEMS
    max_length = None

    def __init__(self, encode: Encode, *, by_length: bool) -> None:
        """`by_length`: whether a longer text costs more, which is the engine's to say."""
        self._encode = encode
        self._by_length = by_length

    def items(self, request: EmbedRequest) -> list[Item[Any]]:
        return [Item(text, length=len(str(text)) if self._by_length else 1) for text in request.inputs]

    def prepare(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def compute(self, prepared: Sequence[Any], run: Run) -> Sequence[Vectors]:
        return list(self._encode(prepared))

    def answer(self, request: EmbedRequest, results: Sequence[Vectors]) -> Embeddings:
        return Embeddings(vectors=np.stack(results).data, prompt_tokens=len(results))


class Model:
    """The LoadedModel."""

    def __init__(self, together: Together) -> None:
        self.batching: Mapping[Ability, Batching[Any, Any, Any, Any]] = {Ability.EMBED: together}

    async def unload(self) -> None:
        pass


def ekiben_application(model: str) -> Any:
    from bentos.embedding import service
    from ekiben.runtime.host import Assignment, ModelHost

    class Host(ModelHost):
        async def _load(self, assignment: Assignment) -> LoadedModel:
            return Model(together)

    together = Together(encoder(model), by_length=model != "toy")

    async def assign() -> Assignment:
        spec = resolve_model(MODEL_NAME, plugins=discover())
        scratch = Path(tempfile.mkdtemp())
        return Assignment(model=spec, variant=0, weights=scratch, device="cpu", threads=1, scratch=scratch)

    bento: Any = service.Embedding
    return bento.application(Host(assign, report=lambda report: None))


def dispatcher_application(model: str) -> Any:
    os.environ[MODEL_VARIABLE] = model
    from tests.bench.families.stock_service import Stock

    stock: Any = Stock
    return stock.to_asgi(is_main=True)


def main(side: str, model: str, port: int) -> None:
    from ekiben.runtime.server import ReplicaServer

    application = (ekiben_application if side == "ekiben" else dispatcher_application)(model)
    listener = socket.create_server(("127.0.0.1", port))
    ReplicaServer(application, on_ready=gc.freeze).run(sockets=[listener])  # as a replica does


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
