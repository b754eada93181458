"""The engine: what a GGUF file needs, and how it is brought into memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ekiben.contract import ConfigError, LoadFailed, LoadRequest, MemoryEstimate
from ekiben.contract.gguf import GgufModel, read_gguf, shards
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.memory import estimate
from ekiben_llama_cpp.model import LlamaModel
from ekiben_llama_cpp.native import NativeServer, http_threads


class LlamaCpp:
    """GGUF models on xllamacpp."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        model, files = _read(request.weights)
        size_bytes = sum(file.stat().st_size for file in files)
        return estimate(model, size_bytes, request.options, device=request.device.kind)

    async def load(self, request: LoadRequest) -> LlamaModel:
        model, _ = await asyncio.to_thread(_read, request.weights)
        server = await asyncio.to_thread(NativeServer, request, model)
        client = LlamaClient(server.socket, connections=http_threads(request.options))
        # llama.cpp hangs when it is stopped before its loop has begun to turn: wait until that answers.
        await client.slots()
        request.report(1.0)
        return LlamaModel(server, client, name=request.model.name)


def _read(path: Path) -> tuple[GgufModel, list[Path]]:
    """The header, and all files of the model. Raises LoadFailed."""
    try:
        files = shards(path)
        model = read_gguf(files[0])
    except ConfigError as error:
        raise LoadFailed(error.message) from None
    if model.kind != "model":
        raise LoadFailed(f"{path.name!r} is not a model but of kind {model.kind!r}: choose another file")
    return model, files
