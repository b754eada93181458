"""A loaded GGUF model: its requests run together in llama.cpp's slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from ekiben.contract import TextRequest
from ekiben_llama_cpp.chat import ChatJob
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.completion import CompletionJob, Prompt, prompts_of
from ekiben_llama_cpp.fan_out import interleave
from ekiben_llama_cpp.native import NativeServer


class Job(Protocol):
    """One request as the requests that llama.cpp gets for it, and the way back."""

    @property
    def path(self) -> str: ...
    @property
    def asks(self) -> Sequence[Mapping[str, Any]]: ...
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
        async with aclosing(self._run(ChatJob(request, loaded_as=self._name), request.stream)) as objects:
            async for item in objects:
                yield item

    async def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        job = CompletionJob(request, echoes=await self._echoes(request.body))
        async with aclosing(self._run(job, request.stream)) as objects:
            async for item in objects:
                yield item

    async def unload(self) -> None:
        await self._client.close()
        await asyncio.to_thread(self._server.stop)

    async def _run(self, job: Job, stream: bool) -> AsyncGenerator[bytes, None]:
        if not stream:
            yield job.merge(await self._ask_all(job))
            return
        streams = [self._client.stream(job.path, ask) for ask in job.asks]
        async with aclosing(interleave(streams)) as objects:
            async for index, raw in objects:
                for chunk in job.write(index, raw):
                    yield chunk
        for chunk in job.finish():
            yield chunk

    async def _ask_all(self, job: Job) -> list[dict[str, Any]]:
        """The answers in order. The first error ends the others."""
        tasks = [
            asyncio.create_task(self._client.ask(job.path, ask), name=f"answer {index}")
            for index, ask in enumerate(job.asks)
        ]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _echoes(self, body: Mapping[str, Any]) -> list[str]:
        prompts = prompts_of(body)
        if not body.get("echo"):
            return [""] * len(prompts)
        return [await self._text_of(prompt) for prompt in prompts]

    async def _text_of(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        answer = await self._client.ask("/detokenize", {"tokens": prompt})
        text: str = answer["content"]
        return text
