"""BentoML's native API and the OpenAI routes of one model ask through the same batcher."""

from __future__ import annotations

import asyncio
import warnings
from array import array
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ekiben.catalog.specs import resolve_model
from ekiben.contract import Ability, Batching, Embeddings
from ekiben.plugins.discovery import discover
from ekiben.runtime.answering import respond
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.embedding import embeddings
from ekiben.runtime.http import Message, Request
from tests.unit.batching_world import PATIENCE_S, Asked, Shouting

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a library that BentoML uses, as it is imported
    from ekiben.runtime.native import EmbeddingBento

MODEL = resolve_model("all-minilm-l6-v2", plugins=discover())


class Lengths(Shouting):
    """One dimension: how long a text is."""

    def items(self, request: Any) -> Any:
        return super().items(Asked(request.inputs))

    def answer(self, request: Any, results: Sequence[str]) -> Any:
        values = array("f", [float(len(word)) for word in results])
        vectors: Any = memoryview(values.tobytes()).cast("f", (len(results), 1))
        return Embeddings(vectors=vectors, prompt_tokens=len(results))


class Model:
    def __init__(self, batching: Lengths) -> None:
        self.batching: Mapping[Ability, Batching[Any, Any, Any, Any]] = {Ability.EMBED: batching}

    async def unload(self) -> None:
        pass


async def routed(fronts: Fronts, body: bytes) -> bytes:
    """What the OpenAI route answers."""
    messages: list[Message] = [{"type": "http.request", "body": body}]
    sent: list[Message] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"method": "POST", "path": "/v1/embeddings", "headers": []}
    await respond(Request(scope, receive, MODEL, fronts), embeddings.create_embeddings, send)
    return b"".join(message.get("body", b"") for message in sent)


async def test_they_share_a_batch() -> None:
    batching = Lengths(held=True)
    fronts = Fronts(Model(batching))
    bento = EmbeddingBento()
    bento.host = SimpleNamespace(model=MODEL, able=fronts.able)  # type: ignore[assignment]
    warm = [asyncio.create_task(bento.embed(texts=[word])) for word in ("one", "two")]
    for _ in warm:  # the first batches are small, to learn what they cost
        assert await asyncio.to_thread(batching.entered.acquire, timeout=PATIENCE_S)
        tasks = [
            asyncio.create_task(bento.embed(texts=["native"])),
            asyncio.create_task(routed(fronts, b'{"model": "%s", "input": "routed"}' % MODEL.name.encode())),
        ]
        for _ in range(20):
            await asyncio.to_thread(lambda: None)
        batching.go.release()
    batching.go.release(9)
    answers = await asyncio.gather(*warm, *tasks)
    assert answers[:3] == [[[3.0]], [[3.0]], [[6.0]]]
    assert b'"embedding":[6.0]' in answers[3]
    assert any({"native", "routed"} <= set(batch) for batch in batching.batches)
    await fronts.close()
