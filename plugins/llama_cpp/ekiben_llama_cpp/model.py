"""A loaded GGUF model: its requests run together in llama.cpp's slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from ekiben.contract import TextRequest
from ekiben.contract.text.fan_out import interleave
from ekiben_llama_cpp.chat import ChatJob
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.completion import CompletionJob, prompts_of
from ekiben_llama_cpp.draft import Draft
from ekiben_llama_cpp.native import NativeServer


class Job(Protocol):
    """One request as the requests that llama.cpp gets for it, and the way back."""

    @property
    def path(self) -> str: ...
    @property
    def asks(self) -> Sequence[Mapping[str, Any]]: ...
    def draft(self) -> Draft: ...
    def merge(self, answers: Sequence[dict[str, Any]]) -> bytes: ...
    def write(self, index: int, raw: bytes) -> Iterator[bytes]: ...
    def finish(self) -> Iterator[bytes]: ...


class LlamaModel:
    """Chat and Complete of the contract."""

    def __init__(self, server: NativeServer, client: LlamaClient, *, name: str) -> None:
        self._server = server
        self._client = client
        self._name = name

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        job = ChatJob(request, loaded_as=self._name)
        async with aclosing(self._answer(job, stream=request.stream)) as objects:
            async for item in objects:
                yield item

    async def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        job = CompletionJob(request, echoes=await self._echoes(request.body))
        async with aclosing(self._answer(job, stream=request.stream)) as objects:
            async for item in objects:
                yield item

    async def unload(self) -> None:
        await self._client.close()
        await asyncio.to_thread(self._server.stop)

    async def _answer(self, job: Job, *, stream: bool) -> AsyncGenerator[bytes, None]:
        drafts = [] if stream else [job.draft() for _ in job.asks]
        streams = [self._client.stream(job.path, ask) for ask in job.asks]
        async with aclosing(interleave(streams)) as objects:
            async for index, raw in objects:
                if stream:
                    for chunk in job.write(index, raw):
                        yield chunk
                else:
                    drafts[index].add(raw)
        if stream:
            for chunk in job.finish():
                yield chunk
        else:
            yield job.merge([draft.answer() for draft in drafts])

    async def _echoes(self, body: Mapping[str, Any]) -> list[str]:
        prompts = prompts_of(body)
        if not body.get("echo"):
            return [""] * len(prompts)
        return [
            prompt if isinstance(prompt, str) else await self._client.detokenize(prompt) for prompt in prompts
        ]
