"""The engine: what a GGUF file needs, and how it is brought into memory."""

from __future__ import annotations

import asyncio

from ekiben.contract import LoadedModel, LoadFailed, LoadRequest, MemoryEstimate
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.description import http_threads
from ekiben_llama_cpp.files import ModelFiles, read_files
from ekiben_llama_cpp.infill import Infill
from ekiben_llama_cpp.kept import KeptPrompts, keeps_prompts
from ekiben_llama_cpp.memory import estimate
from ekiben_llama_cpp.messages import MessageReader
from ekiben_llama_cpp.model import LlamaModel
from ekiben_llama_cpp.native import NativeServer
from ekiben_llama_cpp.sizes import is_for_vectors, reranks, sizes_of
from ekiben_llama_cpp.template import fields_of
from ekiben_llama_cpp.vectors import EmbeddingModel, RerankModel
from ekiben_llama_cpp.voice import Voice


class LlamaCpp:
    """GGUF models on xllamacpp."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        return estimate(request, read_files(request))

    async def load(self, request: LoadRequest) -> LoadedModel:
        files = await asyncio.to_thread(read_files, request)
        server = await asyncio.to_thread(NativeServer, request, files)
        sizes = sizes_of(request, files.model)
        client = LlamaClient(server.socket, connections=http_threads(sizes))
        # llama.cpp hangs when it is stopped before its loop has begun to turn: wait until that answers.
        slots = await client.slots()
        if files.draft is not None and not slots[0]["speculative"]:
            await client.close()
            await asyncio.to_thread(server.stop)
            raise LoadFailed("llama.cpp cannot use the draft model with this one: its log says why")
        kept = KeptPrompts(client, request) if keeps_prompts(request) else None
        if kept is not None:
            await kept.restore()
        request.report(1.0)
        if not is_for_vectors(request):
            infill = Infill(client, files.model)
            voice = _voice(request, files)
            return LlamaModel(server, client, voice, infill, context=sizes.context, kept=kept)
        if reranks(request):
            return RerankModel(server, client, sizes, squash=_is_open(files))
        return EmbeddingModel(server, client, sizes, normalize=bool(request.options["normalize"]))


def _voice(request: LoadRequest, files: ModelFiles) -> Voice:
    return Voice(
        loaded_as=request.model.name,
        messages=MessageReader(sees=files.sees, hears=files.hears),
        adapters={name: number for number, name in enumerate(request.adapters)},
        template_fields=fields_of(files.model, request.options.get("chat_template")),
    )


def _is_open(files: ModelFiles) -> bool:
    """Whether scores are on an open scale: of those that answer yes or no llama.cpp gives the likelihood."""
    return not files.model.architecture.startswith("qwen3")
