"""Kokoro's network behind blocking calls: text to phonemes to pieces of speech."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from ekiben.contract import AudioChunk, EngineError, InvalidRequest, LoadFailed, SpeakRequest
from ekiben.contract.speech import split
from ekiben_kokoro.folder import STYLE, Folder
from ekiben_kokoro.pronunciation import Pronunciation

SAMPLE_RATE_HZ: Final = 24_000
MAX_PHONEMES: Final = 200
"""Of one run of the network, at speed 1. It takes 510, but its time to the first sound grows with them."""
_TOKENS: Final = ("input_ids", "tokens")
"""What exports of the network call its input."""


class Speaker:
    """A loaded model. All methods block, and belong on one thread."""

    def __init__(self, folder: Folder, *, threads: int, default: str | None, language: str | None) -> None:
        """Raises LoadFailed."""
        self._numbers = folder.phonemes()
        styles = folder.voices()
        if default is not None and default not in styles:
            raise LoadFailed(f"there is no voice {default!r}: this model has {', '.join(styles)}")
        self._styles = {name: styles[name] for name in sorted(styles, key=lambda name: name != default)}
        self._session = _session(folder.network, threads=threads)
        self._inputs = {entry.name: entry for entry in self._session.get_inputs()}
        self._tokens = next((name for name in _TOKENS if name in self._inputs), "")
        if {self._tokens, "style", "speed"} != set(self._inputs):
            raise LoadFailed(f"{folder.network} is no Kokoro network: it takes {', '.join(self._inputs)}")
        self._pronunciation = Pronunciation(language=language)

    @property
    def names(self) -> Sequence[str]:
        """The voices, the default one first."""
        return tuple(self._styles)

    def speak(self, request: SpeakRequest) -> Iterator[AudioChunk]:
        """Piece by piece, each as soon as it is made. Raises InvalidRequest when nothing can be said."""
        limit = int(MAX_PHONEMES * min(1.0, request.speed))
        pieces = [
            piece
            for sentence in self._pronunciation.sentences(request.text, voice=request.voice)
            for piece in split([sign for sign in sentence if sign in self._numbers], limit=limit)
        ]
        if not any(sign.isalpha() for piece in pieces for sign in piece):
            raise InvalidRequest("there is nothing in the input that can be spoken", param="input")
        for number, piece in enumerate(pieces, start=1):
            yield self._piece(piece, request, last=number == len(pieces))

    def _piece(self, phonemes: list[str], request: SpeakRequest, *, last: bool) -> AudioChunk:
        styles = self._styles[request.voice]
        numbers = [self._numbers[sign] for sign in phonemes]
        speed = "int32" in self._inputs["speed"].type
        try:
            (audio, *_) = self._session.run(
                None,
                {
                    self._tokens: np.array([[0, *numbers, 0]], np.int64),
                    "style": styles[min(len(numbers), len(styles) - 1)].reshape(1, STYLE),
                    "speed": np.array([request.speed], np.int32 if speed else np.float32),
                },
            )
        except Exception as error:  # its errors have no root of their own
            raise EngineError(f"the voice could not be made: {type(error).__name__}") from error
        return AudioChunk(samples=_samples(audio), sample_rate_hz=SAMPLE_RATE_HZ, last=last)


def _samples(audio: Any) -> bytes:
    whole = np.nan_to_num(np.asarray(audio, np.float32).reshape(-1))
    return (np.clip(whole, -1.0, 1.0) * 32767.0).astype(np.int16).tobytes()


def _session(network: Path, *, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors have no root of their own
        reason = " ".join(str(error).split())[:200]
        raise LoadFailed(f"{network.name!r} is not an ONNX model that can be run: {reason}") from None
