"""Piper's library behind blocking calls: text to phonemes to pieces of speech.

A sentence is one run of the network, whose time and memory grow faster than its length; sentences that
nobody would say in one breath are spoken in several.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import AudioChunk, InvalidRequest, LoadFailed, SpeakRequest
from ekiben.contract.speech import split

if TYPE_CHECKING:
    from piper import PiperConfig, PiperVoice

MAX_PHONEMES: Final = 200
"""Of one run at speed 1: about ten seconds of speech."""
_PHONEMIZERS: Final = ("espeak", "text")
"""The others of the library bring models of their own, over the network."""


@dataclass(frozen=True, slots=True)
class VoiceFiles:
    """The two files that make a voice."""

    model: Path
    config: Path

    @classmethod
    def find(cls, weights: Path) -> VoiceFiles:
        """In a folder with one voice, or beside the .onnx file itself. Raises LoadFailed."""
        models = sorted(weights.glob("*.onnx")) if weights.is_dir() else [weights]
        if len(models) != 1:
            raise LoadFailed(f"{weights} has {len(models)} .onnx files: a voice is one, with its .onnx.json")
        config = models[0].with_name(models[0].name + ".json")
        for file in (models[0], config):
            if not file.is_file():
                raise LoadFailed(f"{file} is missing: a voice is an .onnx file with its .onnx.json beside it")
        return cls(models[0], config)


class Voice:
    """A loaded voice. All methods block, and belong on one thread."""

    def __init__(self, voice: PiperVoice, *, name: str) -> None:
        self._voice = voice
        self._speakers = _speakers(voice, name)

    @property
    def names(self) -> Sequence[str]:
        """The speakers, the default one first; of a single speaker, the voice's own name."""
        return tuple(self._speakers)

    def speak(self, request: SpeakRequest) -> Iterator[AudioChunk]:
        """Piece by piece, each as soon as it is made. Raises InvalidRequest when nothing can be said."""
        pieces = [
            piece
            for sentence in self.phonemes(request.text)
            for piece in split(sentence, limit=int(MAX_PHONEMES * min(1.0, request.speed)))
        ]
        if not any(map(self._is_sound, pieces)):
            raise InvalidRequest("there is nothing in the input that can be spoken", param="input")
        for number, piece in enumerate(pieces, start=1):
            yield self._piece(piece, request, last=number == len(pieces))

    def phonemes(self, text: str) -> list[list[str]]:
        """By sentence."""
        try:
            return self._voice.phonemize(text)
        except ValueError:  # a NUL, or half of a surrogate pair
            raise InvalidRequest("the input has characters that are not text", param="input") from None

    def _is_sound(self, phonemes: Sequence[str]) -> bool:
        known = self._voice.config.phoneme_id_map
        return any(unicodedata.category(p[0])[0] in "LN" and p in known for p in phonemes)

    def _piece(self, phonemes: list[str], request: SpeakRequest, *, last: bool) -> AudioChunk:
        import numpy as np
        from piper import SynthesisConfig

        config = SynthesisConfig(
            speaker_id=self._speakers[request.voice],
            length_scale=self._voice.config.length_scale / request.speed,
        )
        audio: Any = self._voice.phoneme_ids_to_audio(self._voice.phonemes_to_ids(phonemes), config)
        peak = max(float(np.abs(audio).max(initial=0.0)), 1e-8)
        samples = np.nan_to_num(audio / peak * 32767.0).astype(np.int16)
        rate_hz = self._voice.config.sample_rate
        return AudioChunk(samples=samples.tobytes(), sample_rate_hz=rate_hz, last=last)


def load(files: VoiceFiles, *, threads: int) -> Voice:
    """Raises LoadFailed."""
    from piper import PiperVoice

    config = _config(files)
    voice = PiperVoice(session=_session(files.model, threads=threads), config=config)
    try:
        voice.phonemize("a")
    except (ValueError, OSError, RuntimeError) as error:
        raise LoadFailed(
            f"the language of {files.model.name!r} cannot be spoken: {_one_line(error)}"
        ) from None
    return Voice(voice, name=files.model.stem)


def _config(files: VoiceFiles) -> PiperConfig:
    from piper import PiperConfig

    try:
        config = PiperConfig.from_dict(json.loads(files.config.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoadFailed(f"{files.config} is not the configuration of a voice: {error!r}") from None
    if config.phoneme_type.value not in _PHONEMIZERS:
        raise LoadFailed(
            f"the voice {files.model.name!r} needs the phonemizer {config.phoneme_type.value!r}, which is "
            f"not supported: use a voice with {' or '.join(_PHONEMIZERS)}"
        )
    return config


def _session(model: Path, *, threads: int) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(model), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - its errors have no root of their own
        raise LoadFailed(f"{model} cannot be loaded: {_one_line(error)}") from None


def _speakers(voice: PiperVoice, name: str) -> dict[str, int | None]:
    config = voice.config
    if config.num_speakers <= 1:
        return {name: None}
    named = config.speaker_id_map or {str(number): number for number in range(config.num_speakers)}
    return dict(sorted(named.items(), key=lambda item: (item[1] != config.default_speaker_id, item[1])))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
