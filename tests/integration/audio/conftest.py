"""Real audio models, and requests to them through the replica's own HTTP layer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import onnxruntime  # type: ignore[import-untyped]
import pytest

from ekiben.catalog.specs import resolve_model
from ekiben.contract.engine import Device, LoadedModel, LoadRequest
from ekiben.contract.model import ModelSpec
from ekiben.plugins.discovery import discover, load_object
from ekiben.runtime.answering import respond
from ekiben.runtime.audio.routes import ROUTES
from ekiben.runtime.batching.fronts import Fronts
from ekiben.runtime.http import Request

SENTENCE = "Please stand behind the yellow line until the train has stopped."


@dataclass
class Reply:
    """What a client would have received."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an envelope with exactly OpenAI's keys."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)

    def events(self) -> list[dict[str, Any]]:
        """Of a stream that came to its end."""
        *events, done = self.body.decode().removesuffix("\n\n").split("\n\n")
        assert done == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]


@dataclass
class Client:
    """Speaks to one loaded model."""

    model: ModelSpec
    loaded: LoadedModel
    leave: asyncio.Event | None = None
    """Set it to hang up."""

    async def speech(self, **body: Any) -> Reply:
        raw = json.dumps({"model": self.model.name} | body).encode()
        return await self._send("/v1/audio/speech", "application/json", raw)

    async def transcribe(self, audio: bytes, path: str = "transcriptions", **fields: Any) -> Reply:
        """Fields as the SDK sends them: `timestamp_granularities=["word"]` becomes `…[]`."""
        boundary = uuid4().hex
        pairs = {"model": self.model.name} | fields
        parts = [
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for key, values in pairs.items()
            for name, value in (
                [(f"{key}[]", v) for v in values] if isinstance(values, list) else [(key, values)]
            )
        ]
        head = (
            f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="../../a.wav"\r\n'
            "content-type: application/octet-stream\r\n\r\n"
        )
        raw = b"".join([*parts, head.encode(), audio, f"\r\n--{boundary}--\r\n".encode()])
        return await self._send(f"/v1/audio/{path}", f"multipart/form-data; boundary={boundary}", raw)

    async def _send(self, path: str, content_type: str, raw: bytes) -> Reply:
        handler = next(route.handler for route in ROUTES if route.path == path)
        reply = Reply()
        messages = [{"type": "http.request", "body": raw}]
        left = self.leave or asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                reply.chunks.append(message["body"])

        scope = {"method": "POST", "path": path, "headers": [(b"content-type", content_type.encode())]}
        await respond(Request(scope, receive, self.model, Fronts(self.loaded)), handler, send)
        return reply


@pytest.fixture(scope="session")
def load_model(
    weights: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Client]]:
    """`load_model("whisper-base", beam_size=1)`: a client of a model loaded by its real engine."""
    plugins = discover()
    loaded: list[LoadedModel] = []

    def in_a_loop(work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(asyncio.run, run()).result()

    def load(name: str, **options: Any) -> Client:
        model = resolve_model(name, plugins=plugins)
        variant = model.variants[0]
        plugin = plugins.usable[variant.engine]
        assert plugin.manifest.engine is not None
        request = LoadRequest(
            model=model,
            variant=variant,
            weights=weights(name),
            options=plugin.manifest.engine.defaults() | options,
            device=Device(),
            threads=2,
            scratch=tmp_path_factory.mktemp("scratch"),
            report=lambda _: None,
        )
        engine: Any = load_object(plugin)
        assert engine.estimate_memory(request).total_bytes > request.weights.stat().st_size
        loaded.append(in_a_loop(engine.load(request)))
        return Client(model, loaded[-1])

    yield load
    for model in loaded:
        in_a_loop(model.unload())


@pytest.fixture(scope="session")
def voice(load_model: Callable[..., Client]) -> Client:
    onnxruntime.set_seed(1)  # voices vary a little from one sentence to the next; tests should not
    return load_model("piper-en-us-joe")


@pytest.fixture(scope="session")
def whisper(load_model: Callable[..., Client]) -> Client:
    return load_model("whisper-base", beam_size=1, max_duration_s=600)


@pytest.fixture(scope="session")
def spoken(voice: Client) -> bytes:
    """`SENTENCE` as a wav file."""

    async def speak() -> bytes:
        return (await voice.speech(input=SENTENCE, voice="default", response_format="wav")).body

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, speak()).result()


@pytest.fixture(scope="session")
def sentence() -> str:
    return SENTENCE
