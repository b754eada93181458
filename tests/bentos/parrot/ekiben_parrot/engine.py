"""An engine without a model: it repeats the last message word by word, and fails in every way on request."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncGenerator
from typing import Any

from ekiben.contract import LoadFailed, LoadRequest, MemoryEstimate, TextRequest

FEATHERS_BYTES = 32 * 2**20
"""What a parrot that can sleep holds while it is awake."""


class Parrot:
    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        if request.weights.read_bytes() == b"broken":
            raise LoadFailed("the cracker is broken: bake another one")
        return MemoryEstimate(weights_bytes=1_000_000, working_bytes=2_000_000)

    async def load(self, request: LoadRequest) -> Any:
        visible = [repr(os.environ.get(f"{name}_VISIBLE_DEVICES")) for name in ("CUDA", "HIP")]
        print(f"the parrot will load on {request.device}, seeing {' '.join(visible)}", flush=True)
        match request.options["load"]:
            case "fails":
                raise LoadFailed("the parrot is not hungry: try another cracker")
            case "breaks":
                raise RuntimeError("squawk")
            case "slow":
                request.report(0.5)
                await asyncio.sleep(60)
            case "lacks":
                return object()
        # As some native libraries do: from now on nobody would hear SIGTERM.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        request.report(0.5)
        if request.options["sleep"] != "never":
            return SleepyParrot(request)
        return TameParrot(request)


class TameParrot:
    def __init__(self, request: LoadRequest) -> None:
        self._pause_s = float(request.options["pause_s"])
        self._scratch = request.scratch
        (self._scratch / "nest").write_text("eggs")

    async def unload(self) -> None:
        print("the parrot flies away", flush=True)

    def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        return self._speak(request, request.body["messages"][-1]["content"])

    def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        return self._speak(request, request.body["prompt"])

    async def _speak(self, request: TextRequest, text: str) -> AsyncGenerator[bytes, None]:
        if text == "roll":
            import numpy as np

            text = f"{random.random()} {np.random.random()}"
        if text == "home":
            from bentoml._internal.configuration.containers import BentoMLContainer as Bento

            text = (
                f"{Bento.bentoml_home.get()} {Bento.result_store_file.get()} {Bento.model_store.get()._path}"
            )
        if text == "break":
            raise RuntimeError("a secret of the cage")
        if not request.stream:
            await asyncio.sleep(self._pause_s * len(text.split()))
            yield _object(request, text, last=True)
            return
        words = text.split()
        try:
            for index, word in enumerate(words):
                if word == "choke":
                    raise RuntimeError("a secret of the cage")
                yield _object(request, word + " ", last=index == len(words) - 1)
                await asyncio.sleep(self._pause_s)
        except (asyncio.CancelledError, GeneratorExit):
            print("the parrot is interrupted", flush=True)
            raise


class SleepyParrot(TameParrot):
    """Sheds its feathers for the night."""

    def __init__(self, request: LoadRequest) -> None:
        super().__init__(request)
        self._how = request.options["sleep"]
        self._feathers = bytearray(os.urandom(FEATHERS_BYTES))

    async def sleep(self) -> None:
        if self._how == "tosses":
            raise RuntimeError("a noise in the cage")
        self._feathers = bytearray()
        print("the parrot sleeps", flush=True)

    async def wake(self) -> None:
        if self._how == "fails":
            raise LoadFailed("the parrot is stunned: try another one")
        self._feathers = bytearray(os.urandom(FEATHERS_BYTES))
        print("the parrot wakes", flush=True)


def _object(request: TextRequest, text: str, *, last: bool) -> bytes:
    said: dict[str, Any]
    if "prompt" in request.body:
        kind, said = "text_completion", {"text": text}
    elif request.stream:
        kind, said = "chat.completion.chunk", {"delta": {"role": "assistant", "content": text}}
    else:
        message = {"role": "assistant", "content": text, "refusal": None}
        kind, said = "chat.completion", {"message": message}
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop" if last else None} | said
    head = {"id": "parrot", "object": kind, "created": 1, "model": request.model}
    return json.dumps(head | {"choices": [choice]}).encode()
