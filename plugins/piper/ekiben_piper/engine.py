"""The piper engine: a voice of two files becomes a model that speaks."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from ekiben.contract import AudioChunk, LoadRequest, MemoryEstimate, SpeakRequest
from ekiben.contract.threads import WorkerThread
from ekiben_piper.voice import Voice, VoiceFiles, load

_LIBRARY_BYTES: Final = 40 * 2**20
"""What onnxruntime and piper hold by themselves."""
_SPEECH_BYTES: Final = 240 * 2**20
"""The longest piece of speech in the making, which onnxruntime's arena keeps; measured."""


class Piper:
    """The engine of the manifest."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """The network is held as it lies in the file."""
        files = VoiceFiles.find(request.weights)
        library = 0 if "onnxruntime" in sys.modules else _LIBRARY_BYTES
        return MemoryEstimate(weights_bytes=files.model.stat().st_size, working_bytes=library + _SPEECH_BYTES)

    async def load(self, request: LoadRequest) -> LoadedVoice:
        """Read the voice, in a thread. Raises LoadFailed."""
        files = VoiceFiles.find(request.weights)
        worker = WorkerThread("piper")
        try:
            voice = await worker.run(load, files, threads=request.threads)
        except BaseException:
            worker.close()
            raise
        request.report(1.0)
        return LoadedVoice(voice, worker)


class LoadedVoice:
    """One voice in memory; requests are spoken in turn, a piece of each at a time."""

    def __init__(self, voice: Voice, worker: WorkerThread) -> None:
        self._voice = voice
        self._worker = worker

    @property
    def voices(self) -> Sequence[str]:
        """See `ekiben.contract.Speak`."""
        return self._voice.names

    async def speak(self, request: SpeakRequest) -> AsyncGenerator[AudioChunk, None]:
        """See `ekiben.contract.Speak`."""
        voice = self._voice
        async with aclosing(self._worker.iterate(lambda: voice.speak(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def unload(self) -> None:
        """Free the voice as soon as a piece that is still being made has ended."""
        self._worker.close()
        del self._voice
