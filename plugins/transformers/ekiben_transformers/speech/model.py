"""A loaded model that speaks, and the opening of one. Imports torch; `open_speaking` blocks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import numpy as np
import torch
from transformers import VitsModel

from ekiben.contract import AudioChunk, EngineError, InvalidRequest, LoadRequest, SpeakRequest
from ekiben.contract.speech import sentences, split
from ekiben.contract.threads import WorkerThread
from ekiben_transformers.loading import open_model, open_tokenizer
from ekiben_transformers.speech.folder import SpeakingFolder

MAX_CHARACTERS: Final = 200
"""Of one run of the network, at speed 1: about fifteen seconds of speech."""


def open_speaking(folder: SpeakingFolder, request: LoadRequest) -> SpeakingModel:
    """Raises LoadFailed."""
    tokenizer = open_tokenizer(folder)
    request.report(0.2)
    model = open_model(folder, request, dtype="float32", kind=VitsModel, attention=None)
    request.report(1.0)
    return SpeakingModel(Voice(model, tokenizer), speakers=folder.speakers, name=request.model.name)


class Voice:
    """All methods block, and belong on one thread."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def speak(self, text: str, *, speaker: int | None, speed: float) -> Iterator[AudioChunk]:
        """Piece by piece, each as soon as it is made. Raises InvalidRequest when nothing can be said."""
        limit = int(MAX_CHARACTERS * min(1.0, speed))
        pieces = [
            inputs
            for sentence in sentences(text)
            for piece in split(list(sentence), limit=limit)
            if (inputs := self._inputs("".join(piece))) is not None
        ]
        if not pieces:
            raise InvalidRequest("there is nothing in the input that can be spoken", param="input")
        for number, inputs in enumerate(pieces, start=1):
            samples = self._samples(inputs, speaker=speaker, speed=speed)
            rate_hz = int(self._model.config.sampling_rate)
            yield AudioChunk(samples=samples, sample_rate_hz=rate_hz, last=number == len(pieces))

    def _inputs(self, text: str) -> Any:
        """None: nothing of it has a sound."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("the input has half of a surrogate pair", param="input") from None
        prepared, _ = self._tokenizer.prepare_for_tokenization(text)
        if not any(sign.isalnum() for sign in prepared):
            return None
        return self._tokenizer(text, return_tensors="pt")

    def _samples(self, inputs: Any, *, speaker: int | None, speed: float) -> bytes:
        device = self._model.device
        try:
            with torch.inference_mode():
                made = self._model(
                    input_ids=inputs["input_ids"].to(device),
                    attention_mask=inputs["attention_mask"].to(device),
                    speaker_id=speaker,
                    speaking_rate=self._model.config.speaking_rate * speed,
                )
        except Exception as error:
            raise EngineError(f"the voice could not be made: {type(error).__name__}") from error
        whole = np.nan_to_num(made.waveform[0].float().cpu().numpy())
        samples: bytes = (np.clip(whole, -1.0, 1.0) * 32767.0).astype(np.int16).tobytes()
        return samples


class SpeakingModel:
    """The LoadedModel; requests are spoken in turn, a piece of each at a time."""

    def __init__(self, voice: Voice, *, speakers: int, name: str) -> None:
        self._voice = voice
        self._speakers: dict[str, int | None] = (
            {str(number): number for number in range(speakers)} if speakers > 1 else {name: None}
        )
        self._worker = WorkerThread("speech")

    @property
    def voices(self) -> Sequence[str]:
        """See `ekiben.contract.Speak`: the numbers of the speakers; of a single one, the model's name."""
        return tuple(self._speakers)

    async def speak(self, request: SpeakRequest) -> AsyncGenerator[AudioChunk, None]:
        """See `ekiben.contract.Speak`."""
        voice, speaker = self._voice, self._speakers[request.voice]
        async with aclosing(
            self._worker.iterate(lambda: voice.speak(request.text, speaker=speaker, speed=request.speed))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    async def unload(self) -> None:
        self._worker.close()
        del self._voice
