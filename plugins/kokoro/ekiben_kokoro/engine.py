"""The Kokoro engine: a network and its voices become a model that speaks."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from ekiben.contract import AudioChunk, LoadRequest, MemoryEstimate, SpeakRequest
from ekiben.contract.threads import WorkerThread
from ekiben_kokoro.folder import Folder

if TYPE_CHECKING:
    from ekiben_kokoro.speaker import Speaker

_LIBRARY_BYTES: Final = 40 * 2**20
"""What onnxruntime and eSpeak hold by themselves."""
_SPEECH_BYTES: Final = 300 * 2**20
"""The longest piece of speech in the making, which onnxruntime's arena keeps."""


class Kokoro:
    """The engine of the manifest."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """The network is held as it lies in the file."""
        folder = Folder.find(request.weights)
        library = 0 if "onnxruntime" in sys.modules else _LIBRARY_BYTES
        return MemoryEstimate(
            weights_bytes=folder.network.stat().st_size, working_bytes=library + _SPEECH_BYTES
        )

    async def load(self, request: LoadRequest) -> LoadedSpeaker:
        """Read the network and its voices, in a thread. Raises LoadFailed."""
        worker = WorkerThread("kokoro")
        try:
            speaker = await worker.run(_load, request)
        except BaseException:
            worker.close()
            raise
        request.report(1.0)
        return LoadedSpeaker(speaker, worker)


def _load(request: LoadRequest) -> Speaker:
    from ekiben_kokoro.speaker import Speaker

    return Speaker(
        Folder.find(request.weights),
        threads=request.threads,
        default=request.options.get("voice"),
        language=request.options.get("language"),
    )


class LoadedSpeaker:
    """A model in memory; requests are spoken in turn, a piece of each at a time."""

    def __init__(self, speaker: Speaker, worker: WorkerThread) -> None:
        self._speaker = speaker
        self._worker = worker

    @property
    def voices(self) -> Sequence[str]:
        """See `ekiben.contract.Speak`."""
        return self._speaker.names

    async def speak(self, request: SpeakRequest) -> AsyncGenerator[AudioChunk, None]:
        """See `ekiben.contract.Speak`."""
        speaker = self._speaker
        async with aclosing(self._worker.iterate(lambda: speaker.speak(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def unload(self) -> None:
        """Free the model as soon as a piece that is still being made has ended."""
        self._worker.close()
        del self._speaker
