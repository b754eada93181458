"""Requests as windows of half a minute, heard together with those of others: the engine's `Batching`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import (
    InvalidRequest,
    Item,
    Run,
    TranscribedPiece,
    TranscribeRequest,
    TranscriptSegment,
    UnsupportedParameter,
    VoiceActivity,
)
from ekiben.contract.audio import SAMPLE_RATE_HZ, WINDOW_S, Window, decode, windows
from ekiben_faster_whisper.hearing import SCHEDULE, Encoded, hear
from ekiben_faster_whisper.segments import Stretch, segments

if TYPE_CHECKING:
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]
    from faster_whisper.tokenizer import Tokenizer  # type: ignore[import-untyped]

    from ekiben.contract.audio import Speech
    from ekiben.contract.audio.decoding import Samples

VOICE: Final = VoiceActivity(silence_s=2.0, padding_s=0.4)
"""The library's own settings, for models that always leave out silence."""
_ENGLISH: Final = "en"
_MAX_PROMPT_CHARACTERS: Final = 4000
_PROMPT_TOKENS: Final = 223
"""As many as Whisper looks back."""
_MAX_PASSES: Final = 8
"""Through one window: most take one."""
_MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 10
"""Shorter windows have no spectrum."""


@dataclass(slots=True)
class Recording:
    """What the windows of a request share."""

    request: TranscribeRequest
    prompt: list[int]
    language: str | None
    """None: not known yet. The first of its windows that is heard tells."""

    @property
    def group(self) -> tuple[float | None, int, bool]:
        """What the decoder has once and not per window."""
        return (self.request.temperature or None, len(self.prompt), self.request.words)


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

    def __init__(
        self,
        model: WhisperModel,
        *,
        beam_size: int,
        max_items: int,
        vad_filter: bool,
        max_duration_s: float,
    ) -> None:
        self.max_items = max_items
        self._model = model
        self._beam_size = beam_size
        self._vad_filter = vad_filter
        self._max_duration_s = max_duration_s
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}

    def items(self, request: TranscribeRequest) -> Iterator[Item[Part]]:
        """See `Batching`. Decodes only as far as windows are wanted."""
        self._check(request)
        multilingual = self._model.model.is_multilingual
        recording = Recording(
            request,
            self._prompt_tokens(request.prompt or ""),
            request.language if multilingual else _ENGLISH,
        )
        return self._parts(recording)

    def prepare(self, values: Sequence[Part]) -> Prepared:
        return Prepared(values, [Stretch(part.window, self._features(part.window)) for part in values])

    def compute(self, prepared: Prepared, run: Run) -> list[TranscribedPiece]:
        """What the model breaks off is heard again from there. Windows without a sound cost nothing."""
        found: list[list[TranscriptSegment]] = [[] for _ in prepared.parts]
        left = {
            index: stretch for index, stretch in enumerate(prepared.stretches) if len(stretch.window.samples)
        }
        for _ in range(_MAX_PASSES):
            rest: dict[int, Stretch] = {}
            for index, segments_of, stretch in self._pass(prepared.parts, left, run):
                found[index] += segments_of
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
        if request.translate and not self._model.model.is_multilingual:
            raise UnsupportedParameter(
                "this model knows English only and cannot translate: name a multilingual one"
            )
        if request.language is not None and not self._knows(request.language):
            raise InvalidRequest(
                f"the model does not know the language {request.language!r}: send an ISO 639-1 code such as "
                "'en', or leave it out to have it detected",
                param="language",
            )

    def _knows(self, language: str) -> bool:
        """Whether there is a token for it."""
        if not self._model.model.is_multilingual:
            return language == _ENGLISH
        token = self._model.hf_tokenizer.token_to_id(f"<|{language}|>")
        return token is not None and language in self._model.supported_languages

    def _parts(self, recording: Recording) -> Iterator[Item[Part]]:
        blocks = decode(recording.request.audio, max_duration_s=self._max_duration_s)
        voice = recording.request.voice_activity or (VOICE if self._vad_filter else None)
        for window in windows(blocks, speech=None if voice is None else _speech(voice)):
            yield Item(Part(recording, window), group=recording.group)

    def _features(self, window: Window) -> Any:
        import numpy as np

        samples = window.samples.astype(np.float32) / np.float32(32768.0)
        if len(samples) < _MIN_SAMPLES:
            samples = np.pad(samples, (0, _MIN_SAMPLES - len(samples)))
        return self._model.feature_extractor(samples)[..., :-1]

    def _pass(
        self, parts: Sequence[Part], left: Mapping[int, Stretch], run: Run
    ) -> Iterator[tuple[int, list[TranscriptSegment], Stretch | None]]:
        """Hear each stretch once: what is in it, and what is left of it."""
        wanted = [index for index in left if run.waits_for(index)]
        if not wanted:
            return
        encoded = Encoded(self._model, [_filled(left[index].features) for index in wanted], run=run)
        recordings = [parts[index].recording for index in wanted]
        self._detect_languages(recordings, encoded)
        request = recordings[0].request
        heard = hear(
            self._model,
            encoded,
            [self._prompt(recording) for recording in recordings],
            temperatures=[request.temperature] if request.temperature else SCHEDULE,
            beam_size=self._beam_size,
            suppressed=self._suppressed,
            run=run,
        )
        for place, index in enumerate(wanted):
            if heard[place].is_silence:
                continue
            found, rest_s = segments(
                self._model,
                self._tokenizer(recordings[place]),
                left[index],
                heard[place],
                encoding=encoded.take([place]) if request.words else None,
            )
            yield index, found, None if rest_s is None else left[index].after(rest_s)

    def _detect_languages(self, recordings: Sequence[Recording], encoded: Encoded) -> None:
        unknown = [place for place, recording in enumerate(recordings) if recording.language is None]
        if not unknown:
            return
        found = self._model.model.detect_language(encoded.take(unknown))
        for place, likely in zip(unknown, found, strict=True):
            if recordings[place].language is None:  # an earlier window of it may just have told
                recordings[place].language = likely[0][0].removeprefix("<|").removesuffix("|>")

    def _prompt(self, recording: Recording) -> list[int]:
        """What was said before, and which language and task follows."""
        tokenizer = self._tokenizer(recording)
        before = [tokenizer.sot_prev, *recording.prompt] if recording.prompt else []
        return [*before, *tokenizer.sot_sequence]

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """Text only: what looks like one of Whisper's control tokens is left out."""
        if not prompt.strip():
            return []
        tokenizer = self._model.hf_tokenizer
        text = " " + prompt.strip()[-_MAX_PROMPT_CHARACTERS:]
        end_of_text = tokenizer.token_to_id("<|endoftext|>")
        tokens = [int(token) for token in tokenizer.encode(text, add_special_tokens=False).ids]
        return [token for token in tokens if token < end_of_text][-_PROMPT_TOKENS:]

    def _tokenizer(self, recording: Recording) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer

        task = "translate" if recording.request.translate else "transcribe"
        key = (task, recording.language or _ENGLISH)
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(
                self._model.hf_tokenizer, self._model.model.is_multilingual, task=task, language=key[1]
            )
        return self._tokenizers[key]

    @cached_property
    def _suppressed(self) -> Sequence[int]:
        """What is not speech, and control tokens: the same for every language and task."""
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens  # type: ignore[import-untyped]

        multilingual = self._model.model.is_multilingual
        tokenizer = Tokenizer(self._model.hf_tokenizer, multilingual, task="transcribe", language=_ENGLISH)
        return list(get_suppressed_tokens(tokenizer, [-1]))


def _piece(part: Part, found: Sequence[TranscriptSegment]) -> TranscribedPiece:
    return TranscribedPiece(
        language=part.recording.language or _ENGLISH,
        duration_s=part.window.heard / SAMPLE_RATE_HZ,
        segments=found,
    )


def _speech(voice: VoiceActivity) -> Speech:
    """The detector that comes with faster-whisper."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps  # type: ignore[import-untyped]

    options = VadOptions(
        threshold=voice.threshold,
        max_speech_duration_s=WINDOW_S,
        min_silence_duration_ms=round(voice.silence_s * 1000),
        speech_pad_ms=round(voice.padding_s * 1000),
    )

    def find(samples: Samples) -> list[tuple[int, int]]:
        import numpy as np

        found = get_speech_timestamps(samples.astype(np.float32) / np.float32(32768.0), options)
        return [(int(span["start"]), int(span["end"])) for span in found]

    return find


def _filled(features: Any) -> Any:
    """Half a minute of it, as the encoder wants to have it."""
    from faster_whisper.audio import pad_or_trim  # type: ignore[import-untyped]

    return pad_or_trim(features)
