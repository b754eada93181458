"""The faster_whisper engine: a folder of CTranslate2 weights becomes a model that transcribes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

from ekiben.contract import (
    EngineError,
    LoadFailed,
    LoadRequest,
    MemoryEstimate,
    TranscribeRequest,
    Transcription,
    TranscriptSegment,
)
from ekiben.contract.threads import WorkerThread
from ekiben_faster_whisper.decode import SAMPLE_RATE_HZ, decode, samples_of
from ekiben_faster_whisper.recognizer import Recognizer, check_request

if TYPE_CHECKING:
    from ekiben_faster_whisper.decode import Samples

FILES: Final = ("model.bin", "config.json", "tokenizer.json")
"""Without its tokenizer the library would look for one on a hub."""
_LIBRARY_BYTES: Final = 40 * 2**20
"""What CTranslate2 and faster-whisper hold by themselves."""
_WORKING_BYTES: Final = 170 * 2**20
_WORKING_SHARE: Final = 0.25
"""Spectrogram, encoder and beams of one piece: a part of them grows with the model; measured."""
_GPU_HOST_BYTES: Final = 512 * 2**20
"""What the CUDA libraries hold of the host's memory, allowed for."""


class FasterWhisper:
    """The engine of the manifest."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """Weights are converted on load: files hold 16-bit numbers, float32 takes twice that.

        Narrower types take less in the end, but the file is in memory while it is converted.
        """
        _require_files(request.weights)
        size = (request.weights / "model.bin").stat().st_size
        library = 0 if "ctranslate2" in sys.modules else _LIBRARY_BYTES
        return MemoryEstimate(
            weights_bytes=size * 2 if _compute_type(request) == "float32" else size,
            working_bytes=library + _WORKING_BYTES + int(size * _WORKING_SHARE),
            host_bytes=_GPU_HOST_BYTES,
        )

    async def load(self, request: LoadRequest) -> LoadedWhisper:
        """Read the weights, in a thread. Raises LoadFailed."""
        _require_files(request.weights)
        worker = WorkerThread("whisper")
        try:
            recognizer = await worker.run(_recognizer, request)
        except BaseException:
            worker.close()
            raise
        request.report(1.0)
        return LoadedWhisper(
            recognizer,
            worker,
            scratch=request.scratch,
            max_duration_s=float(request.options["max_duration_s"]),
        )


class LoadedWhisper:
    """One model in memory: decoding in one thread, recognition, request by request in turn, in another."""

    def __init__(
        self, recognizer: Recognizer, worker: WorkerThread, *, scratch: Path, max_duration_s: float
    ) -> None:
        self._recognizer = recognizer
        self._worker = worker
        self._decoder = WorkerThread("whisper-decode")
        self._scratch = scratch
        self._max_duration_s = max_duration_s

    async def transcribe(self, request: TranscribeRequest) -> Transcription:
        """See `ekiben.contract.Transcribe`."""
        check_request(request, self._recognizer)
        samples = await self._decode(request.audio)
        withdrawn = Event()
        language = request.language
        if language is None:
            detect = self._recognizer.detect_language
            language = await self._worker.run(detect, samples, withdrawn=withdrawn)
        return Transcription(
            language=language,
            duration_s=len(samples) / SAMPLE_RATE_HZ,
            segments=self._segments(samples, request, language=language, withdrawn=withdrawn),
        )

    async def unload(self) -> None:
        """Free the model as soon as a step that still runs has ended."""
        self._decoder.close()
        self._worker.close()
        del self._recognizer

    async def _decode(self, audio: Path) -> Samples:
        try:
            with tempfile.TemporaryFile(dir=self._scratch) as file:
                steps = self._decoder.iterate(
                    lambda: decode(audio, into=file, max_duration_s=self._max_duration_s)
                )
                async with aclosing(steps):
                    async for _ in steps:
                        pass
                return samples_of(file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise EngineError(f"the audio cannot be unpacked to disk: {reason}") from None

    async def _segments(
        self, samples: Samples, request: TranscribeRequest, *, language: str, withdrawn: Event
    ) -> AsyncGenerator[TranscriptSegment, None]:
        recognizer = self._recognizer
        steps = self._worker.iterate(
            lambda: recognizer.segments(samples, request, language=language, withdrawn=withdrawn)
        )
        try:
            async with aclosing(steps):
                async for segment in steps:
                    yield segment
        finally:
            withdrawn.set()


def _recognizer(request: LoadRequest) -> Recognizer:
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]

    try:
        model = WhisperModel(
            str(request.weights),
            device=request.device.kind,
            device_index=request.device.index,
            compute_type=_compute_type(request),
            cpu_threads=request.threads,
            local_files_only=True,
        )
    except Exception as error:  # noqa: BLE001 - the tokenizer's library has no error class of its own
        reason = " ".join(str(error).split())
        raise LoadFailed(f"the weights in {request.weights} cannot be loaded: {reason}") from None
    return Recognizer(
        model,
        beam_size=int(request.options["beam_size"]),
        vad_filter=bool(request.options["vad_filter"]),
    )


def _compute_type(request: LoadRequest) -> str:
    chosen = str(request.options["compute_type"])
    if chosen != "auto":
        return chosen
    return "int8" if request.device.kind == "cpu" else "float16"


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        raise LoadFailed(f"{folder} is not a folder: a CTranslate2 model is one, with {', '.join(FILES)}")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise LoadFailed(f"{folder} lacks {', '.join(missing)}: is it a CTranslate2 Whisper model?")
