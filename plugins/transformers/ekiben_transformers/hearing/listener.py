"""Requests as windows of half a minute, heard together with those of others: `Batching` for Whisper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from ekiben.contract import (
    GivenUp,
    InvalidRequest,
    Item,
    Run,
    TranscribedPiece,
    TranscribeRequest,
    TranscriptSegment,
    TranscriptWord,
    UnsupportedParameter,
)
from ekiben.contract.audio import SAMPLE_RATE_HZ, Window, decode, windows

MAX_DURATION_S: Final = 14_400.0
SCHEDULE: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's own temperatures: the next is tried where the text of the last is no good."""
GOOD: Final[Mapping[str, float]] = {
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}
"""What is good enough, as the library's documents say it of its own measures."""
_ENGLISH: Final = "en"
_MAX_PROMPT_CHARACTERS: Final = 4000
_MARKS: Final = 8
"""More than there are tokens that say language and task."""
_MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 10
"""Shorter windows have no spectrum."""


@dataclass(slots=True)
class Recording:
    """What the windows of a request share."""

    request: TranscribeRequest
    language: str | None
    """None: not known yet. The first of its windows that is heard tells."""

    @property
    def group(self) -> tuple[float | None, str, bool, bool]:
        """What the library has once and not per window."""
        request = self.request
        return (request.temperature or None, request.prompt or "", request.words, request.translate)


@dataclass(frozen=True, slots=True)
class Part:
    """An item."""

    recording: Recording
    window: Window


@dataclass(frozen=True, slots=True)
class Prepared:
    parts: Sequence[Part]
    features: torch.Tensor
    mask: torch.Tensor


class Listener:
    """One model in memory, for transcriptions and translations alike."""

    max_length: int | None = None

    def __init__(self, model: Any, tokenizer: Any, extractor: Any, *, max_items: int) -> None:
        self.max_items = max_items
        self._model = model
        self._tokenizer = tokenizer
        self._extractor = extractor
        self._half = int(model.config.max_target_positions) // 2
        """Tokens: Whisper leaves the prompt as much room as the answer."""
        self._multilingual = bool(getattr(model.generation_config, "is_multilingual", False))
        known = getattr(model.generation_config, "lang_to_id", None) or {}
        self._languages = {int(number): token.strip("<|>") for token, number in known.items()}

    def items(self, request: TranscribeRequest) -> Iterator[Item[Part]]:
        """See `Batching`. Decodes only as far as windows are wanted."""
        self._check(request)
        recording = Recording(request, request.language if self._multilingual else _ENGLISH)
        for window in windows(decode(request.audio, max_duration_s=MAX_DURATION_S)):
            yield Item(Part(recording, window), group=recording.group)

    def prepare(self, values: Sequence[Part]) -> Prepared:
        sounds = [_floats(part.window) for part in values]
        made = self._extractor(
            sounds, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", return_attention_mask=True
        )
        return Prepared(values, made["input_features"], made["attention_mask"])

    def compute(self, prepared: Prepared, run: Run) -> list[TranscribedPiece]:
        """All windows at once. Those whose text is no good are heard again at the next temperature."""
        recordings = [part.recording for part in prepared.parts]
        features = prepared.features.to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            self._detect_languages(recordings, features)
            if not run.wanted:
                raise GivenUp
            heard = self._model.generate(
                features,
                attention_mask=prepared.mask.to(self._model.device),
                return_timestamps=True,
                return_segments=True,
                stopping_criteria=StoppingCriteriaList([_Unwanted(run)]),
                **self._wishes(recordings),
            )
        if not run.wanted:
            raise GivenUp
        return [
            self._piece(part, found) for part, found in zip(prepared.parts, heard["segments"], strict=True)
        ]

    def answer(self, request: TranscribeRequest, results: Sequence[TranscribedPiece]) -> TranscribedPiece:
        """Transcripts are streamed, so this is for whoever drives the windows of one request himself."""
        return TranscribedPiece(
            language=results[0].language,
            duration_s=results[-1].duration_s,
            segments=[segment for piece in results for segment in piece.segments],
        )

    def _check(self, request: TranscribeRequest) -> None:
        """Refuse, before any work, what the model cannot do."""
        if request.translate and not self._multilingual:
            raise UnsupportedParameter(
                "this model knows English only and cannot translate: name a multilingual one"
            )
        known = self._languages.values() if self._multilingual else (_ENGLISH,)
        if request.language is not None and request.language not in known:
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
        if request.words and not getattr(self._model.generation_config, "alignment_heads", None):
            raise UnsupportedParameter(
                "this model does not say which of its heads tell the times of words: ask for segments",
                param="timestamp_granularities",
            )

    def _detect_languages(self, recordings: Sequence[Recording], features: torch.Tensor) -> None:
        unknown = [place for place, recording in enumerate(recordings) if recording.language is None]
        if not unknown:
            return
        tokens = self._model.detect_language(features[unknown])
        for place, token in zip(unknown, tokens.tolist(), strict=True):
            if recordings[place].language is None:  # an earlier window of it may just have told
                recordings[place].language = self._languages[token]

    def _wishes(self, recordings: Sequence[Recording]) -> dict[str, Any]:
        """What the library takes besides the sound."""
        request = recordings[0].request
        wishes: dict[str, Any] = dict(GOOD)
        wishes["temperature"] = request.temperature or SCHEDULE
        wishes["return_token_timestamps"] = request.words
        wishes["max_new_tokens"] = self._half
        if self._multilingual:
            wishes["language"] = [recording.language for recording in recordings]
            wishes["task"] = "translate" if request.translate else "transcribe"
        if prompt := (request.prompt or "").strip()[-_MAX_PROMPT_CHARACTERS:]:
            mark, *tokens = self._tokenizer.get_prompt_ids(self._plain(prompt))
            kept = torch.tensor([mark, *tokens[_MARKS - self._half :]])
            wishes["prompt_ids"] = kept.to(self._model.device)
        return wishes

    def _plain(self, prompt: str) -> str:
        """Without what looks like one of Whisper's control tokens."""
        for token in self._tokenizer.get_added_vocab():
            prompt = prompt.replace(token, "")
        return prompt

    def _piece(self, part: Part, found: Sequence[Mapping[str, Any]]) -> TranscribedPiece:
        window, language = part.window, part.recording.language or _ENGLISH
        segments = [
            self._segment(window, one, language, words=part.recording.request.words)
            for one in found
            if len(window.samples) and float(one["start"]) < window.duration_s
        ]
        return TranscribedPiece(
            language=language,
            duration_s=window.heard / SAMPLE_RATE_HZ,
            segments=[segment for segment in segments if segment.text.strip()],
        )

    def _segment(
        self, window: Window, found: Mapping[str, Any], language: str, *, words: bool
    ) -> TranscriptSegment:
        tokens = [int(token) for token in found["tokens"]]
        return TranscriptSegment(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            start_s=window.place(float(found["start"])),
            end_s=window.place(min(float(found["end"]), window.duration_s), is_end=True),
            tokens=tokens,
            seek=round(window.start_s * 100),
            words=self._words(window, found, tokens, language) if words else (),
        )

    def _words(
        self, window: Window, found: Mapping[str, Any], tokens: Sequence[int], language: str
    ) -> list[TranscriptWord]:
        """As the library puts tokens together; a word lasts until the next token begins."""
        first_special = int(self._tokenizer.eos_token_id)
        starts = [*map(float, found["token_timestamps"]), float(found["end"])]
        spoken = [place for place, token in enumerate(tokens) if token < first_special]
        texts, _, indices = _combine_tokens_into_words(
            self._tokenizer, [tokens[place] for place in spoken], language
        )
        return [
            TranscriptWord(
                word=text,
                start_s=window.place(min(starts[spoken[places[0]]], window.duration_s)),
                end_s=window.place(min(starts[spoken[places[-1]] + 1], window.duration_s), is_end=True),
            )
            for text, places in zip(texts, indices, strict=True)
        ]


class _Unwanted(StoppingCriteria):
    """Ends everything once nobody waits any more."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), not self._run.wanted, device=input_ids.device)


def _floats(window: Window) -> Any:
    samples = window.samples.astype(np.float32) / np.float32(32768.0)
    return np.pad(samples, (0, max(0, _MIN_SAMPLES - len(samples))))
