"""A loaded GGUF model that makes vectors of texts, or judges how well texts answer a query.

Inputs go to llama.cpp a few at a time. It computes what lies in its slots together, and looks only now and
then whether anybody still waits for an answer: small requests are what lets it stop soon.
"""

from __future__ import annotations

import asyncio
import base64
import math
import sys
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from ekiben.contract import (
    MAX_EMBED_TOKENS,
    Embeddings,
    EmbedImage,
    EmbedRequest,
    InvalidRequest,
    Rerankings,
    RerankRequest,
    UnsupportedParameter,
    check_embed_tokens,
)
from ekiben_llama_cpp.client import LlamaClient
from ekiben_llama_cpp.native import NativeServer
from ekiben_llama_cpp.sizes import Sizes
from ekiben_llama_cpp.tokens import LlamaTokenizer

T = TypeVar("T")

_AT_ONCE: Final = 2
"""Requests under way, so that llama.cpp always has the next inputs at hand."""
_CHARACTERS: Final = 4
"""Of a token, roughly."""
_MARKS: Final = 8
"""Tokens that templates put around a query and a document, allowed for."""
_FRAME: Final = 2
"""Tokens that a model puts around a text."""
_EUCLIDEAN: Final = 2
_NONE: Final = -1


class _VectorModel(LlamaTokenizer):
    tokens_made = 0
    """Vectors are none."""

    def __init__(self, server: NativeServer, client: LlamaClient, sizes: Sizes) -> None:
        super().__init__(client, context=sizes.context, messages=None)
        self._server = server
        self._together = sizes.parallel
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def answers_at_work(self) -> int:
        """Slots in use."""
        return await self._client.slots_in_use()

    async def unload(self) -> None:
        await self._client.close()
        await asyncio.to_thread(self._server.stop)

    async def _each(self, inputs: Sequence[Any], ask: Callable[[Sequence[Any]], Awaitable[T]]) -> list[T]:
        """What is answered for a few of them at a time, in order. The first error ends all."""

        async def in_turn(some: Sequence[Any]) -> T:
            async with self._turn:
                return await ask(some)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(in_turn(some)) for some in self._portions(inputs)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def _portions(self, inputs: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """As many as there are slots, and about as many tokens as one step computes."""
        portion: list[Any] = []
        size = 0
        for item in inputs:
            tokens = len(item) // _CHARACTERS if isinstance(item, str) else len(item)
            if portion and (len(portion) == self._together or size + tokens > self._context):
                yield portion
                portion, size = [], 0
            portion.append(item)
            size += tokens
        if portion:
            yield portion


class EmbeddingModel(_VectorModel):
    """Embed of the contract."""

    def __init__(self, server: NativeServer, client: LlamaClient, sizes: Sizes, *, normalize: bool) -> None:
        super().__init__(server, client, sizes)
        self._normalize = _EUCLIDEAN if normalize else _NONE

    async def embed(self, request: EmbedRequest) -> Embeddings:
        _check(request)
        await self._check_tokens(request.inputs)
        answers = await self._each(list(request.inputs), self._embed)
        numbers = array("f")
        for answer in answers:
            for item in answer["data"]:
                numbers.frombytes(base64.b64decode(item["embedding"]))
        if sys.byteorder == "big":
            numbers.byteswap()
        rows = len(request.inputs)
        vectors: Any = memoryview(numbers).cast("B").cast("f", (rows, len(numbers) // rows))
        return Embeddings(
            vectors=vectors,
            prompt_tokens=sum(answer["usage"]["prompt_tokens"] for answer in answers),
        )

    async def _check_tokens(self, inputs: Sequence[Any]) -> None:
        """Raises TooManyTokens. Counts only what may be too much: no token is shorter than a byte."""
        most = [len(entry.encode()) + _FRAME if isinstance(entry, str) else len(entry) for entry in inputs]
        counted, uncounted = 0, sum(most)
        for entry, allowed in zip(inputs, most, strict=True):
            if counted + uncounted <= MAX_EMBED_TOKENS:
                return
            uncounted -= allowed
            text = isinstance(entry, str)
            counted += len((await self.tokens_of(entry, special=True)).ids) if text else allowed
            check_embed_tokens(counted)

    async def _embed(self, inputs: Sequence[Any]) -> Any:
        body = {"input": inputs, "encoding_format": "base64", "embd_normalize": self._normalize}
        return await self._client.ask("/v1/embeddings", body)


def _check(request: EmbedRequest) -> None:
    """Raises UnsupportedParameter for what llama.cpp has nothing for."""
    if request.dimensions is not None:
        raise UnsupportedParameter(
            "this model has vectors of one length: leave out 'dimensions'", param="dimensions"
        )
    if any(isinstance(entry, EmbedImage) for entry in request.inputs):
        raise UnsupportedParameter("this model takes texts and tokens, not pictures", param="input")
    refused = {
        "prompt_name": (request.prompt_name, "this model has no prompts by name"),
        "input_type": (request.input_type, "this model does not tell queries from documents"),
        "truncate_prompt_tokens": (request.max_tokens, "this model does not cut texts"),
        "truncate": (request.truncate or None, "this model does not cut texts"),
    }
    for param, (value, reason) in refused.items():
        if value is not None:
            raise UnsupportedParameter(f"{reason}: leave out {param!r}", param=param)


class RerankModel(_VectorModel):
    """Rerank of the contract."""

    def __init__(self, server: NativeServer, client: LlamaClient, sizes: Sizes, *, squash: bool) -> None:
        """`squash`: its scores are on an open scale, and are brought to 0 to 1."""
        super().__init__(server, client, sizes)
        self._squash = squash

    async def rerank(self, request: RerankRequest) -> Rerankings:
        room = self._context - _MARKS - await self._length(request.query)
        if room <= 0:
            raise InvalidRequest(
                f"the query is longer than the {self._context} tokens of the model's context: shorten it",
                param="query",
                code="context_length_exceeded",
            )
        limit = min(room, request.max_tokens_per_document or room)
        documents = [await self._cut(document, limit) for document in request.documents]

        async def judged(some: Sequence[Any]) -> Any:
            return await self._client.ask("/v1/rerank", {"query": request.query, "documents": some})

        answers = await self._each(documents, judged)
        return Rerankings(
            scores=[score for answer in answers for score in self._scores(answer)],
            prompt_tokens=sum(answer["usage"]["prompt_tokens"] for answer in answers),
        )

    def _scores(self, answer: Any) -> Iterator[float]:
        for result in sorted(answer["results"], key=lambda result: int(result["index"])):
            score = float(result["relevance_score"])
            yield 1 / (1 + math.exp(-max(-700.0, score))) if self._squash else score

    async def _length(self, text: str) -> int:
        return len((await self.tokens_of(text, special=False)).ids)

    async def _cut(self, document: str, limit: int) -> str:
        if len(document.encode()) <= limit:
            return document  # no token is shorter than a byte
        tokens = (await self.tokens_of(document, special=False)).ids
        return document if len(tokens) <= limit else await self.detokenize(tokens[:limit])
