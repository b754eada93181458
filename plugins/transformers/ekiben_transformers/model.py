"""A loaded model: its requests are prepared on one thread and computed together on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, nullcontext
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from ekiben.contract import InvalidRequest, TextRequest, TokenizeRequest, Tokens
from ekiben.contract.text.fan_out import interleave
from ekiben.contract.threads import WorkerThread
from ekiben_transformers.adapter_set import AdapterSet
from ekiben_transformers.answer import Piece, TokenScore, Writer, score_of
from ekiben_transformers.batch import Batch
from ekiben_transformers.chat import ChatJob
from ekiben_transformers.completion import CompletionJob
from ekiben_transformers.prompter import Prompter

_SCORED_AT_ONCE = 64
"""Tokens of a prompt, each with a score for the whole vocabulary."""


class Job(Protocol):
    """One request: the answers to be written, and what is made of them."""

    @property
    def writers(self) -> Sequence[Writer]: ...
    def write(self, index: int, piece: Piece) -> Iterator[bytes]: ...
    def add(self, index: int, piece: Piece) -> None: ...
    def finish(self) -> Iterator[bytes]: ...
    def whole(self) -> bytes: ...


class TextModel:
    """Chat, Complete and Tokenizer of the contract."""

    def __init__(
        self, model: Any, batch: Batch, prompter: Prompter, *, adapters: AdapterSet | None = None
    ) -> None:
        self._model = model
        self._batch = batch
        self._prompter = prompter
        self._adapters = adapters
        self.tokens_made = 0
        self._desk = WorkerThread("prompts")

    async def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        job = await self._desk.run(ChatJob, request, self._prompter)
        async with aclosing(self._answer(job, stream=request.stream)) as objects:
            async for item in objects:
                yield item

    async def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        job = await self._desk.run(CompletionJob, request, self._prompter)
        if job.wants_prompt_scores:
            job.prompt_scores = [
                await self._score(prompt, job.logprobs or 0, request.adapter) for prompt in job.prompts
            ]
        async with aclosing(self._answer(job, stream=request.stream)) as objects:
            async for item in objects:
                yield item

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        return await self._desk.run(self._tokens, request)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        self._prompter.vocabulary.check(tokens, param="tokens")
        return await self._desk.run(self._prompter.vocabulary.decode, tokens, special=True)

    @property
    def max_model_tokens(self) -> int:
        return self._prompter.context

    async def answers_at_work(self) -> int:
        """Rows of the batch."""
        return self._batch.rows

    async def unload(self) -> None:
        self._desk.close()
        await asyncio.to_thread(self._batch.stop)
        self._model = None

    async def _answer(self, job: Job, *, stream: bool) -> AsyncGenerator[bytes, None]:
        streams = [self._batch.write(writer) for writer in job.writers]
        counted = [0] * len(streams)
        async with aclosing(interleave(streams)) as pieces:
            async for index, piece in pieces:
                made = piece.written - counted[index] if piece.finish_reason else 1
                counted[index] += made
                self.tokens_made += made
                if stream:
                    for chunk in job.write(index, piece):
                        yield chunk
                else:
                    job.add(index, piece)
        if stream:
            for chunk in job.finish():
                yield chunk
        else:
            yield job.whole()

    def _tokens(self, request: TokenizeRequest) -> Tokens:
        if request.messages is not None:
            text = self._prompter.conversation(
                request.messages, request.tools, add_generation_prompt=request.add_generation_prompt
            )
            ids = self._prompter.encode(text, special=False)
        elif request.text is not None:
            ids = self._prompter.encode(request.text, special=request.add_special_tokens)
        else:
            raise InvalidRequest("there is neither a text nor a conversation to be counted", param="prompt")
        return Tokens(ids=ids, texts=[self._prompter.vocabulary.text_of(token) for token in ids])

    async def _score(self, prompt: Sequence[int], count: int, adapter: str | None) -> list[TokenScore | None]:
        scores: list[TokenScore | None] = [None]
        await self._batch.run(self._scoring(prompt, count, adapter, scores))
        return scores

    def _scoring(
        self, prompt: Sequence[int], count: int, adapter: str | None, scores: list[TokenScore | None]
    ) -> Iterator[None]:
        """Reads a prompt in parts, and appends how likely each token but the first was."""
        cache = DynamicCache(config=self._model.config)
        for begin in range(0, len(prompt) - 1, _SCORED_AT_ONCE):
            end = min(begin + _SCORED_AT_ONCE, len(prompt) - 1)
            ids = torch.tensor([prompt[begin:end]], device=self._model.device)
            alone = self._adapters.alone(adapter, end - begin) if self._adapters else nullcontext()
            with alone:
                output = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
            rows = output.logits[0].float().log_softmax(-1)
            for row, token in zip(rows, prompt[begin + 1 : end + 1], strict=True):
                scores.append(score_of(row, token, count))
            yield
