"""What the transformers engine gains by computing 16 requests together instead of one after another."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.smollm2_folder import smollm2_folder
from tests.transformers_engine import asked, loaded, order

REQUESTS: Final = 16
TOKENS: Final = 16
RUNS: Final = 3


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    yield asyncio.run(_compare(smollm2_folder(weights), folder))


async def _compare(model_folder: Path, scratch: Path) -> dict[str, Any]:
    async with loaded(order(model_folder, scratch, parallel=REQUESTS)) as model:

        async def write(index: int) -> int:
            body = {
                "messages": [{"role": "user", "content": f"Tell me about the number {index}."}],
                "max_tokens": TOKENS,
                "ignore_eos": True,
            }
            (answer,) = [json.loads(item) async for item in model.chat(asked(body))]
            return int(answer["usage"]["completion_tokens"])

        rates: dict[str, list[float]] = {"alone": [], "together": []}
        await write(0)
        for _ in range(RUNS):
            started = time.perf_counter()
            counts = [await write(index) for index in range(REQUESTS)]
            rates["alone"].append(sum(counts) / (time.perf_counter() - started))
            started = time.perf_counter()
            counts = await asyncio.gather(*(write(index) for index in range(REQUESTS)))
            rates["together"].append(sum(counts) / (time.perf_counter() - started))
    alone, together = (statistics.median(rates[name]) for name in ("alone", "together"))
    return {
        "what": f"transformers, {REQUESTS} requests together against one after another",
        "alone_tokens_per_s": round(alone, 1),
        "together_tokens_per_s": round(together, 1),
        "ratio": round(together / alone, 2),
        "must": 4,
        "held": together >= 4 * alone,
    }
