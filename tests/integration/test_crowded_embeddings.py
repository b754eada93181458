"""A real model under a crowd: everybody has the vectors that they would have had alone, in shared batches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ekiben.catalog.specs import resolve_model
from ekiben.contract import Ability, Embed, EmbedRequest, Engine, LoadedModel, testing
from ekiben.plugins.discovery import discover, load_object
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.batching.selection import Choice

CLIENTS = 64
KNOWN = 12
NAME = "all-minilm-l6-v2"


class Seen:
    def __init__(self) -> None:
        self.choices: list[Choice] = []
        self.waits: list[float] = []

    def waited(self, ability: str, seconds: float) -> None:
        self.waits.append(seconds)

    def left(self, ability: str, choice: Choice) -> None:
        self.choices.append(choice)


async def loaded(folder: Path, scratch: Path) -> LoadedModel:
    """On one thread: the library's threads wait for each other when the machine has other work."""
    plugins = discover()
    spec = resolve_model(NAME, plugins=plugins)
    plugin = plugins.engines()[spec.variants[0].engine]
    assert plugin.manifest.engine is not None
    options = plugin.manifest.engine.defaults()
    engine: Engine = load_object(plugin)  # type: ignore[assignment]
    return await engine.load(testing.load_request(spec, folder, scratch=scratch, options=options, threads=1))


async def vectors(engine: Embed, texts: list[str]) -> NDArray[np.float32]:
    return np.asarray((await engine.embed(EmbedRequest(inputs=texts))).vectors)


async def test_64_clients_share_batches_and_get_what_they_asked_for(
    weights: Callable[[str], Path], tmp_path: Path
) -> None:
    model = await loaded(weights(NAME), tmp_path)
    draw = random.Random(7)
    known = [
        " ".join(f"word{draw.randrange(500)}" for _ in range(draw.randrange(1, 30))) for _ in range(KNOWN)
    ]
    seen = Seen()
    fronts = Fronts(model, watch=seen)
    engine: Embed = fronts.able(Ability.EMBED)
    alone = [(await vectors(engine, [text]))[0] for text in known]
    seen.choices.clear()
    answered = 0

    async def client(number: int) -> None:
        nonlocal answered
        mine = random.Random(number)
        picks = [mine.randrange(KNOWN) for _ in range(mine.randrange(1, 4))]
        got = await vectors(engine, [known[pick] for pick in picks])
        np.testing.assert_allclose(got, [alone[pick] for pick in picks], atol=1e-4)
        answered += 1

    tasks = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    impatient = [asyncio.create_task(client(CLIENTS + number)) for number in range(8)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    await asyncio.gather(*tasks)
    assert answered >= CLIENTS
    items = [len(choice.picks) for choice in seen.choices]
    assert sum(items) / len(items) > 4, f"batches of {items}"
    assert max(choice.requests for choice in seen.choices) > 4
    await fronts.close()
    await model.unload()
