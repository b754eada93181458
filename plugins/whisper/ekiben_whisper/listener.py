"""Requests as windows of half a minute, heard together with those of others: the engine's `Batching`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from whisper.audio import N_FRAMES, log_mel_spectrogram, pad_or_trim  # type: ignore[import-untyped]
from whisper.decoding import DecodingResult  # type: ignore[import-untyped]
from whisper.model import Whisper  # type: ignore[import-untyped]
from whisper.tokenizer import LANGUAGES, get_tokenizer  # type: ignore[import-untyped]

from ekiben.contract import (
    InvalidRequest,
    Item,
    Run,
    TranscribedPiece,
    TranscribeRequest,
    TranscriptSegment,
    UnsupportedParameter,
)
from ekiben.contract.audio import SAMPLE_RATE_HZ, WINDOW_S, Window, decode, windows
from ekiben_whisper.alignment import add_words
from ekiben_whisper.hearing import SCHEDULE, Task, encode, hear, is_silence
from ekiben_whisper.segments import Stretch, segment, split

_ENGLISH: Final = "en"
_MAX_PROMPT_CHARACTERS: Final = 4000
_MAX_PASSES: Final = 8
"""Through one window: most take one."""
_MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 10
"""Shorter windows have no spectrum."""


@dataclass(slots=True)
class Recording:
    """What the windows of a request share."""

    request: TranscribeRequest
    prompt: Sequence[int]
    language: str | None
    """None: not known yet. The first of its windows that is heard tells."""

    @property
    def group(self) -> tuple[float | None, int]:
        """What the decoder has once and not per window."""
        return (self.request.temperature or None, len(self.prompt))


@dataclass(frozen=True, slots=True)
class Part:
    """An item."""

    recording: Recording
    window: Window


@dataclass(frozen=True, slots=True)
class Prepared:
    parts: Sequence[Part]
    stretches: Sequence[Stretch]


class Listener:
    """One model in memory, for transcriptions and translations alike."""

    max_length: int | None = None

    def __init__(self, model: Whisper, *, beam_size: int, max_items: int, max_duration_s: float) -> None:
        self.max_items = max_items
        self._model = model
        self._beam_size = beam_size
        self._max_duration_s = max_duration_s
        self._languages = tuple(LANGUAGES)[: model.num_languages] if model.is_multilingual else (_ENGLISH,)

    def items(self, request: TranscribeRequest) -> Iterator[Item[Part]]:
        """See `Batching`. Decodes only as far as windows are wanted."""
        self._check(request)
        language = request.language if self._model.is_multilingual else _ENGLISH
        return self._parts(Recording(request, self._prompt(request.prompt or ""), language))

    def prepare(self, values: Sequence[Part]) -> Prepared:
        return Prepared(values, [Stretch(part.window, self._spectrogram(part.window)) for part in values])

    def compute(self, prepared: Prepared, run: Run) -> list[TranscribedPiece]:
        """What the model breaks off is heard again from there. Windows without a sound cost nothing."""
        found: list[list[TranscriptSegment]] = [[] for _ in prepared.parts]
        left = {
            index: stretch for index, stretch in enumerate(prepared.stretches) if len(stretch.window.samples)
        }
        with torch.inference_mode():
            for _ in range(_MAX_PASSES):
                rest: dict[int, Stretch] = {}
                for index, segments, stretch in self._pass(prepared.parts, left, run):
                    found[index] += segments
                    if stretch is not None:
                        rest[index] = stretch
                if not (left := rest):
                    break
        return [_piece(part, segments) for part, segments in zip(prepared.parts, found, strict=True)]

    def answer(self, request: TranscribeRequest, results: Sequence[TranscribedPiece]) -> TranscribedPiece:
        """Transcripts are streamed, so this is for whoever drives the windows of one request himself."""
        return TranscribedPiece(
            language=results[0].language,
            duration_s=results[-1].duration_s,
            segments=[segment for piece in results for segment in piece.segments],
        )

    def _check(self, request: TranscribeRequest) -> None:
        """Refuse, before any work, what the model cannot do."""
        if request.translate and not self._model.is_multilingual:
            raise UnsupportedParameter(
                "this model knows English only and cannot translate: name a multilingual one"
            )
        if request.language is not None and request.language not in self._languages:
            raise InvalidRequest(
                f"the model does not know the language {request.language!r}: send an ISO 639-1 code such as "
                "'en', or leave it out to have it detected",
                param="language",
            )
        if request.voice_activity is not None:
            raise UnsupportedParameter(
                "this model's engine has no voice activity detector: leave out 'chunking_strategy'",
                param="chunking_strategy",
            )

    def _prompt(self, text: str) -> list[int]:
        """As plain text, also where it looks like one of Whisper's control tokens."""
        if not text.strip():
            return []
        encoding = self._tokenizer(None, translate=False).encoding
        tokens = encoding.encode_ordinary(" " + text.strip()[-_MAX_PROMPT_CHARACTERS:])
        return list(tokens[-(self._model.dims.n_text_ctx // 2 - 1) :])

    def _parts(self, recording: Recording) -> Iterator[Item[Part]]:
        for window in windows(decode(recording.request.audio, max_duration_s=self._max_duration_s)):
            yield Item(Part(recording, window), group=recording.group)

    def _spectrogram(self, window: Window) -> torch.Tensor:
        """Of the window alone, though half a minute of silence follows it, as in the library."""
        samples = window.samples.astype(np.float32) / np.float32(32768.0)
        samples = np.pad(samples, (0, max(0, _MIN_SAMPLES - len(samples))))
        padding = WINDOW_S * SAMPLE_RATE_HZ
        found: torch.Tensor = log_mel_spectrogram(samples, self._model.dims.n_mels, padding=padding)
        return found[..., :-N_FRAMES]

    def _pass(
        self, parts: Sequence[Part], left: Mapping[int, Stretch], run: Run
    ) -> Iterator[tuple[int, list[TranscriptSegment], Stretch | None]]:
        """Hear each stretch once: what is in it, and what is left of it."""
        wanted = [index for index in left if run.waits_for(index)]
        if not wanted:
            return
        filled = [pad_or_trim(left[index].spectrogram, N_FRAMES) for index in wanted]
        encoded = encode(self._model, filled, run=run)
        recordings = [parts[index].recording for index in wanted]
        self._detect_languages(recordings, encoded)
        temperature = recordings[0].request.temperature
        heard = hear(
            self._model,
            encoded,
            [self._task(recording) for recording in recordings],
            temperatures=[temperature] if temperature else SCHEDULE,
            beam_size=self._beam_size,
            run=run,
        )
        for place, index in enumerate(wanted):
            if not is_silence(heard[place]):
                found, rest_s = self._segments(
                    recordings[place], left[index], heard[place], encoded=encoded[place]
                )
                yield index, found, None if rest_s is None else left[index].after(rest_s)

    def _detect_languages(self, recordings: Sequence[Recording], encoded: torch.Tensor) -> None:
        unknown = [place for place, recording in enumerate(recordings) if recording.language is None]
        if not unknown:
            return
        _, likely = self._model.detect_language(encoded[unknown])
        for place, found in zip(unknown, likely, strict=True):
            if recordings[place].language is None:  # an earlier window of it may just have told
                recordings[place].language = max(found, key=found.__getitem__)

    def _task(self, recording: Recording) -> Task:
        language = recording.language or _ENGLISH
        tokenizer = self._tokenizer(language, translate=recording.request.translate)
        return Task(language=language, start=tokenizer.sot_sequence, prompt=recording.prompt)

    def _segments(
        self, recording: Recording, stretch: Stretch, heard: DecodingResult, *, encoded: torch.Tensor
    ) -> tuple[list[TranscriptSegment], float | None]:
        """And where to go on, in seconds from the beginning of the stretch."""
        tokenizer = self._tokenizer(recording.language, translate=recording.request.translate)
        pieces = split(heard.tokens, first_timestamp=tokenizer.timestamp_begin, duration_s=stretch.duration_s)
        if recording.request.words and pieces.found:
            add_words(self._model, tokenizer, pieces.found, encoded=encoded, frames=stretch.frames)
        made = (
            segment(
                piece,
                tokenizer.decode([token for token in piece["tokens"] if token < tokenizer.eot]),
                stretch=stretch,
                heard=heard,
            )
            for piece in pieces.found
        )
        return [one for one in made if one is not None], pieces.rest_s

    def _tokenizer(self, language: str | None, *, translate: bool) -> Any:
        """The library keeps those that it has made."""
        return get_tokenizer(
            self._model.is_multilingual,
            num_languages=self._model.num_languages,
            language=language,
            task="translate" if translate else "transcribe",
        )


def _piece(part: Part, found: Sequence[TranscriptSegment]) -> TranscribedPiece:
    return TranscribedPiece(
        language=part.recording.language or _ENGLISH,
        duration_s=part.window.heard / SAMPLE_RATE_HZ,
        segments=found,
    )
