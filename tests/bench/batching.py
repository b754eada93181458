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
LEAST: Final = 4


def run(folder: Path, weights: Path, *, rounds: int = RUNS) -> Iterator[dict[str, Any]]:
    yield asyncio.run(_compare(smollm2_folder(weights), folder, rounds))


async def _compare(model_folder: Path, scratch: Path, rounds: int) -> dict[str, Any]:
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
        for _ in range(rounds):
            started = time.perf_counter()
            counts = [await write(index) for index in range(REQUESTS)]
            rates["alone"].append(sum(counts) / (time.perf_counter() - started))
            started = time.perf_counter()
            counts = await asyncio.gather(*(write(index) for index in range(REQUESTS)))
            rates["together"].append(sum(counts) / (time.perf_counter() - started))
    pairs = zip(rates["together"], rates["alone"], strict=True)
    ratio = round(statistics.median(together / alone for together, alone in pairs), 2)
    return {
        "row": f"transformers: {REQUESTS} requests together / one after another",
        "value": ratio,
        "at_least": LEAST,
        "held": ratio >= LEAST,
        **{f"{name}_tokens_per_s": round(statistics.median(each), 1) for name, each in rates.items()},
        "runs": rounds,
    }
