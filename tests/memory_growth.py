"""`python -m tests.memory_growth MODEL WEIGHTS OPTIONS FOLDER`: one engine at work in a fresh process.

Prints what it estimated and by how much the process grew at most, as JSON. The work is the largest that the
options allow, or near it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

from ekiben.catalog.specs import resolve_model
from ekiben.contract.abilities import EmbedRequest, OcrRequest, SpeakRequest, TextRequest, TranscribeRequest
from ekiben.contract.engine import LoadRequest
from ekiben.contract.model import Ability
from ekiben.contract.pictures import ClassifyRequest, DrawRequest
from ekiben.contract.testing import able, blank_png
from ekiben.plugins.discovery import discover
from ekiben.runtime.host import Assignment, prepare_load

WORDS = "the train to the mountains leaves from the second platform "


class Everybody:
    """A run whose items all are waited for."""

    wanted = True

    def waits_for(self, index: int) -> bool:
        return True

    def tell(self, index: int, news: object) -> None:
        pass


async def measure(name: str, weights: Path, options: dict[str, Any], folder: Path) -> dict[str, int]:
    spec = resolve_model(name, plugins=discover())
    variant = spec.variants[0].model_copy(update={"options": spec.variants[0].options | options})
    spec = spec.model_copy(update={"variants": (variant,)})
    assignment = Assignment(model=spec, variant=0, weights=weights, device="cpu", threads=2, scratch=folder)
    engine, request = prepare_load(assignment, report=lambda _: None)
    before = _of_this_process("VmRSS")
    estimate = engine.estimate_memory(request)
    await _work(await engine.load(request), request)
    return {"estimate": estimate.total_bytes, "growth": _of_this_process("VmHWM") - before}


async def _work(model: Any, request: LoadRequest) -> None:
    if hasattr(model, "chat"):
        body = {"messages": [{"role": "user", "content": WORDS * 30}], "max_tokens": 8}
        raw = json.dumps(body).encode()
        ask = TextRequest(body=body, raw=raw, stream=False, model="m", request_id="r")
        await _exhaust(model.chat(ask))
    elif Ability.EMBED in request.model.abilities:
        await able(model, Ability.EMBED).embed(EmbedRequest(inputs=[WORDS * 40] * 32))
    elif Ability.TRANSCRIBE in request.model.abilities:
        audio = request.scratch / "silence.wav"
        with wave.open(str(audio), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(bytes(2 * 16000 * 115))
        hears = able(model, Ability.TRANSCRIBE)
        answer = await hears.transcribe(TranscribeRequest(audio=audio, language="en"))
        await _exhaust(answer.segments)
    elif hasattr(model, "speak"):
        await _exhaust(model.speak(SpeakRequest(text=WORDS * 8, voice=model.voices[0])))
    elif Ability.CLASSIFY in request.model.abilities:
        await _classify(model, request)
    elif Ability.GENERATE_IMAGE in request.model.abilities:
        await _draw(model, request)
    else:
        side = request.options["max_side"]
        await able(model, Ability.READ_TEXT).read_text(OcrRequest(image=blank_png(side, side)))


async def _classify(model: Any, request: LoadRequest) -> None:
    """As many pictures as go into a batch."""
    batching = model.batching[Ability.CLASSIFY]
    asked = ClassifyRequest(image=blank_png(640, 480))
    values = [item.value for _ in range(batching.max_items) for item in batching.items(asked)]
    for _ in range(2):
        batching.compute(batching.prepare(values), Everybody())


async def _draw(model: Any, request: LoadRequest) -> None:
    """As many pictures as go into a batch, then one of the largest."""
    drawing = able(model, Ability.GENERATE_IMAGE)
    asked = DrawRequest(prompt=WORDS, negative_prompt="rain", steps=2, guidance=4.0, seed=1)
    await _exhaust(drawing.generate_image(replace(asked, n=int(request.options["max_batch"]))))
    width, height = model.batching[Ability.GENERATE_IMAGE].ensemble.native_size
    await _exhaust(drawing.generate_image(replace(asked, width=width, height=2 * height)))


async def _exhaust(answer: Any) -> None:
    async for _ in answer:
        pass


def _of_this_process(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    model, weights, options, folder = sys.argv[1:]
    found = asyncio.run(measure(model, Path(weights), json.loads(options), Path(folder)))
    print(json.dumps(found), flush=True)
    os._exit(0)  # without waiting for the engines' threads
