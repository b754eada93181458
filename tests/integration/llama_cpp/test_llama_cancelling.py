"""Requests of the llama_cpp engine run together, and free their slots when nobody waits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest

from ekiben_llama_cpp.model import LlamaModel
from tests.integration.llama_lab import MODEL, STORY, Weights, chat, loaded, until_busy, whole_chat

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_requests_run_together(model: LlamaModel) -> None:
    order: list[str] = []

    async def follow(name: str) -> None:
        async for _ in chat(model, messages=STORY, stream=True, max_tokens=24, ignore_eos=True):
            order.append(name)

    await asyncio.gather(follow("a"), follow("b"))
    switches = sum(before != after for before, after in pairwise(order))
    assert switches > 6, order


@pytest.mark.parametrize("n", [1, 2])
async def test_leaving_a_stream_frees_the_slots(model: LlamaModel, n: int) -> None:
    endless = chat(model, messages=STORY, stream=True, max_tokens=None, ignore_eos=True, n=n)
    async with aclosing(endless):
        await anext(endless)
        await until_busy(model, n)
    async with asyncio.timeout(1):
        await until_busy(model, 0)


@pytest.mark.parametrize("n", [1, 2])
async def test_giving_up_a_whole_answer_frees_the_slots(model: LlamaModel, n: int) -> None:
    waiting = asyncio.create_task(whole_chat(model, messages=STORY, max_tokens=None, ignore_eos=True, n=n))
    await until_busy(model, n)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await until_busy(model, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token_frees_the_slot(
    weights: Weights, tmp_path: Path, stream: bool
) -> None:
    path = await asyncio.to_thread(weights, MODEL)
    async with loaded(path, tmp_path, context=8192, parallel=1, batch=16) as model:
        prompt = [{"role": "user", "content": "word " * 6000}]

        async def first() -> bytes:
            async with aclosing(chat(model, messages=prompt, stream=stream)) as items:
                return await anext(items)

        waiting = asyncio.create_task(first())
        await until_busy(model, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1):
            await until_busy(model, 0)


async def test_those_that_wait_for_a_slot_can_leave_too(model: LlamaModel) -> None:
    tasks = [
        asyncio.create_task(whole_chat(model, messages=STORY, max_tokens=None, ignore_eos=True))
        for _ in range(10)
    ]
    await until_busy(model, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(1):
        await until_busy(model, 0)
