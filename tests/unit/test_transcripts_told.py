"""How far a transcription has come, told while it is made: the same for streams and for whole answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from ekiben.contract.abilities import TranscribeRequest, Transcription, TranscriptSegment
from ekiben.contract.model import ModelSpec
from ekiben.runtime.audio.routes import ROUTES
from ekiben.runtime.protocol import Work
from ekiben.runtime.work import WorkBook
from tests.replica_routes import client

ROUTE = "/v1/audio/transcriptions"
VARIANT = {"format": "ctranslate2", "engine": "faster_whisper", "source": {"kind": "local", "path": "/x"}}
MODEL = ModelSpec.model_validate(
    {"name": "ear", "family": "audio", "abilities": ["transcribe"], "variants": [VARIANT]}
)


class Ear:
    """Hears half a minute, and then nothing more."""

    def __init__(self) -> None:
        self.closed = False

    async def unload(self) -> None:
        pass

    async def transcribe(self, request: TranscribeRequest) -> Transcription:
        return Transcription(language="en", duration_s=60, segments=self._segments())

    async def _segments(self) -> AsyncGenerator[TranscriptSegment, None]:
        try:
            yield TranscriptSegment(text="The train is late.", start_s=0, end_s=29.5)
            await asyncio.Event().wait()
        finally:
            self.closed = True


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_seconds_that_were_heard_are_told_until_the_client_leaves(stream: str) -> None:
    told: asyncio.Queue[Sequence[Work]] = asyncio.Queue()
    ear = Ear()
    async with client(MODEL, ear, ROUTES, work=WorkBook(told.put_nowait)) as http, asyncio.timeout(5):
        asking = asyncio.create_task(
            http.post(
                ROUTE,
                data={"model": "ear", "stream": stream},
                files={"file": ("a.wav", b"sound")},
                headers={"x-request-id": "req_1"},
            )
        )
        (work,) = await told.get()
        assert work == Work(request="req_1", route=ROUTE, done=29.5, total=None, unit="seconds")
        asking.cancel()
        await asyncio.wait({asking})
        assert await told.get() == []
    assert ear.closed
