"""A loaded GGUF model: its requests run together in llama.cpp's slots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from ekiben.contract import TextRequest
from ekiben.contract.text.fan_out import interleave
from ekiben_llama_cpp.chat import ChatJob
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.completion import CompletionJob, Prompt, prompts_of
from ekiben_llama_cpp.draft import Draft
from ekiben_llama_cpp.infill import Infill
from ekiben_llama_cpp.kept import KeptPrompts
from ekiben_llama_cpp.native import NativeServer
from ekiben_llama_cpp.tokens import LlamaTokenizer
from ekiben_llama_cpp.voice import Voice

_WITH_USAGE: Final = b'"usage":{'
"""Only the last object of an answer has it; within texts its quotes would be escaped."""
_SILENT: Final = b'"content":null'


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


class LlamaModel(LlamaTokenizer):
    """Chat and Complete of the contract."""

    def __init__(
        self,
        server: NativeServer,
        client: LlamaClient,
        voice: Voice,
        infill: Infill,
        *,
        context: int,
        kept: KeptPrompts | None = None,
    ) -> None:
        super().__init__(client, context=context, messages=voice.messages)
        self._server = server
        self._voice = voice
        self._infill = infill
        self._kept = kept
        self.tokens_made = 0

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        job = ChatJob(request, self._voice)
        async with aclosing(self._answer(job, stream=request.stream)) as objects:
            async for item in objects:
                yield item

    async def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        prompts = prompts_of(request.body)
        echoes = [await self._echo(prompt, request.body) for prompt in prompts]
        if suffix := request.body.get("suffix"):
            prompts = [await self._infill.prompt(prompt, suffix) for prompt in prompts]
        job = CompletionJob(request, self._voice, prompts=prompts, echoes=echoes)
        async with aclosing(self._answer(job, stream=request.stream)) as objects:
            async for item in objects:
                yield item

    async def answers_at_work(self) -> int:
        """Slots in use."""
        return await self._client.slots_in_use()

    async def unload(self) -> None:
        if self._kept is not None:
            await self._kept.save()
        await self._client.close()
        await asyncio.to_thread(self._server.stop)

    async def _answer(self, job: Job, *, stream: bool) -> AsyncGenerator[bytes, None]:
        drafts = [] if stream else [job.draft() for _ in job.asks]
        streams = [self._client.stream(job.path, ask) for ask in job.asks]
        counted = [0] * len(streams)
        async with aclosing(interleave(streams)) as objects:
            async for index, raw in objects:
                self._count(counted, index, raw)
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

    def _count(self, counted: list[int], index: int, raw: bytes) -> None:
        """An object is a token, until the last one says how many there were."""
        if _WITH_USAGE in raw:
            made = int(json.loads(raw)["usage"]["completion_tokens"]) - counted[index]
        else:
            made = 0 if _SILENT in raw else 1
        counted[index] += made
        self.tokens_made += made

    async def _echo(self, prompt: Prompt, body: Mapping[str, Any]) -> str:
        if not body.get("echo"):
            return ""
        return prompt if isinstance(prompt, str) else await self.text_of(prompt, "prompt")
