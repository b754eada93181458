"""The faster_whisper engine: a folder of CTranslate2 weights becomes a model that transcribes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ekiben.contract import Ability, LoadFailed, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread
from ekiben_faster_whisper.listener import Listener

if TYPE_CHECKING:
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]

FILES: Final = ("model.bin", "config.json", "tokenizer.json")
"""Without its tokenizer the library would look for one on a hub."""
_LIBRARY_BYTES: Final = 40 * 2**20
"""What CTranslate2 and faster-whisper hold by themselves."""
_WORKING_BYTES: Final = 170 * 2**20
_WORKING_SHARE: Final = 0.25
"""Spectrogram, encoder and beams: a part of them grows with the model; measured."""
_WINDOW_BYTES: Final = 22 * 2**20
"""For each window of a batch: what the decoder keeps of it; measured."""
_CPU_BATCH: Final = 4
"""More gains nothing there, and has others wait."""
_GPU_BATCH: Final = 16
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
            working_bytes=library
            + _WORKING_BYTES
            + int(size * _WORKING_SHARE)
            + _WINDOW_BYTES * _batch_size(request),
            host_bytes=_GPU_HOST_BYTES,
        )

    async def load(self, request: LoadRequest) -> LoadedWhisper:
        """Read the weights, in a thread. Raises LoadFailed."""
        _require_files(request.weights)
        worker = WorkerThread("whisper")
        try:
            listener = await worker.run(_listener, request)
        finally:
            worker.close()
        request.report(1.0)
        return LoadedWhisper(listener)


class LoadedWhisper:
    """One model in memory, which the runtime gives windows of many requests to hear together."""

    def __init__(self, listener: Listener) -> None:
        self.batching = {Ability.TRANSCRIBE: listener, Ability.TRANSLATE: listener}

    async def unload(self) -> None:
        """Free the model, as soon as a step that still runs has ended."""
        self.batching = {}


def _listener(request: LoadRequest) -> Listener:
    options = request.options
    return Listener(
        _model(request),
        beam_size=int(options["beam_size"]),
        max_items=_batch_size(request),
        vad_filter=bool(options["vad_filter"]),
        max_duration_s=float(options["max_duration_s"]),
    )


def _model(request: LoadRequest) -> WhisperModel:
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(
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


def _batch_size(request: LoadRequest) -> int:
    chosen = int(request.options["batch_size"])
    return chosen or (_CPU_BATCH if request.device.kind == "cpu" else _GPU_BATCH)


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
