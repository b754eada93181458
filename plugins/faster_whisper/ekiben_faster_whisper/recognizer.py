"""faster-whisper behind two blocking calls, which a request that has been given up can end early.

Long recordings are read piece by piece, so that memory does not grow with their length, other requests
get a turn, and each piece begins with what was said before it, as Whisper does between its own windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import (
    InvalidRequest,
    TranscribeRequest,
    TranscriptSegment,
    TranscriptWord,
    UnsupportedParameter,
)
from ekiben_faster_whisper.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]
    from faster_whisper.transcribe import Segment  # type: ignore[import-untyped]

    from ekiben_faster_whisper.decode import Samples

PIECE_S: Final = 120
"""How much is read at once; the cut is made at the quietest moment of the last `SEARCH_S`."""
SEARCH_S: Final = 30
_QUIET_BLOCK: Final = SAMPLE_RATE_HZ // 10
_FRAMES_PER_S: Final = 100
"""`seek` counts Whisper's frames."""
_LANGUAGE_SAMPLES: Final = 30 * SAMPLE_RATE_HZ
_MAX_PROMPT_CHARACTERS: Final = 4000
_PROMPT_TOKENS: Final = 223
"""As many as Whisper looks back."""
_RESET_ABOVE: Final = 0.5
"""A text that took a higher temperature than this is no guide for what follows."""
_SCHEDULE: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Withdrawn(Exception):
    """The request was cancelled while its work was running."""


class Interruptible:
    """A CTranslate2 model whose calls fail once the request they are made for has been withdrawn.

    faster-whisper may make many of them before it gives out its next segment.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.withdrawn = Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        return self._unless_withdrawn().encode(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._unless_withdrawn().generate(*args, **kwargs)

    def align(self, *args: Any, **kwargs: Any) -> Any:
        return self._unless_withdrawn().align(*args, **kwargs)

    def _unless_withdrawn(self) -> Any:
        if self.withdrawn.is_set():
            raise Withdrawn
        return self._model


class Recognizer:
    """A loaded model. All methods block, and belong on one thread."""

    def __init__(self, model: WhisperModel, *, beam_size: int, vad_filter: bool) -> None:
        self._gate = model.model = Interruptible(model.model)
        self._model = model
        self._beam_size = beam_size
        self._vad_filter = vad_filter

    @property
    def multilingual(self) -> bool:
        return bool(self._gate.is_multilingual)

    def knows(self, language: str) -> bool:
        """Whether there is a token for it."""
        if not self.multilingual:
            return language == "en"
        token = self._model.hf_tokenizer.token_to_id(f"<|{language}|>")
        return token is not None and language in self._model.supported_languages

    def detect_language(self, samples: Samples, *, withdrawn: Event) -> str:
        """From the first half minute."""
        if not self.multilingual:
            return "en"
        self._gate.withdrawn = withdrawn
        language, _, _ = self._model.detect_language(audio=_floats(samples[:_LANGUAGE_SAMPLES]))
        return str(language)

    def segments(
        self, samples: Samples, request: TranscribeRequest, *, language: str, withdrawn: Event
    ) -> Iterator[TranscriptSegment]:
        """The transcript, or translation, in order of time."""
        prompt = self._prompt_tokens(request.prompt or "")
        start = 0
        while start < len(samples):
            end = piece_end(samples, start)
            found = self._piece(
                samples[start:end], request, language=language, prompt=prompt, withdrawn=withdrawn
            )
            for segment in found:
                yield _placed(segment, start_s=start / SAMPLE_RATE_HZ, end_s=end / SAMPLE_RATE_HZ)
                guides = (segment.temperature or 0.0) <= _RESET_ABOVE
                prompt = [*prompt, *segment.tokens][-_PROMPT_TOKENS:] if guides else []
            start = end

    def _piece(
        self,
        samples: Samples,
        request: TranscribeRequest,
        *,
        language: str,
        prompt: list[int],
        withdrawn: Event,
    ) -> Iterator[Segment]:
        self._gate.withdrawn = withdrawn
        segments, _ = self._model.transcribe(
            _floats(samples),
            language=language,
            task="translate" if request.translate else "transcribe",
            beam_size=self._beam_size,
            temperature=request.temperature or _SCHEDULE,
            initial_prompt=prompt or None,
            word_timestamps=request.words,
            vad_filter=self._vad_filter,
        )
        steps = iter(segments)
        while (segment := next(steps, None)) is not None:
            yield segment
            # Other requests had their turn since.
            self._gate.withdrawn = withdrawn

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """Text only: what looks like one of Whisper's control tokens is left out."""
        if not prompt.strip():
            return []
        tokenizer = self._model.hf_tokenizer
        text = " " + prompt.strip()[-_MAX_PROMPT_CHARACTERS:]
        end_of_text = tokenizer.token_to_id("<|endoftext|>")
        tokens = [int(token) for token in tokenizer.encode(text, add_special_tokens=False).ids]
        return [token for token in tokens if token < end_of_text][-_PROMPT_TOKENS:]


def piece_end(samples: Samples, start: int) -> int:
    """Where the piece that begins at `start` ends: in a quiet moment, or where everything does."""
    import numpy as np

    limit = start + PIECE_S * SAMPLE_RATE_HZ
    if limit >= len(samples):
        return len(samples)
    search = samples[limit - SEARCH_S * SAMPLE_RATE_HZ : limit].astype(np.float32)
    loudness = np.square(search).reshape(-1, _QUIET_BLOCK).mean(axis=1)
    # The last of equally quiet moments: in plain silence the pieces keep their length.
    quietest = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
    return limit - SEARCH_S * SAMPLE_RATE_HZ + quietest * _QUIET_BLOCK + _QUIET_BLOCK // 2


def check_request(request: TranscribeRequest, recognizer: Recognizer) -> None:
    """Refuse, before any work, what the model cannot do. Raises InvalidRequest."""
    if request.translate and not recognizer.multilingual:
        raise UnsupportedParameter(
            "this model knows English only and cannot translate: name a multilingual one"
        )
    if request.language is not None and not recognizer.knows(request.language):
        raise InvalidRequest(
            f"the model does not know the language {request.language!r}: send an ISO 639-1 code such as "
            "'en', or leave it out to have it detected",
            param="language",
        )


def _floats(samples: Samples) -> Any:
    import numpy as np

    return samples.astype(np.float32) / np.float32(32768.0)


def _placed(segment: Segment, *, start_s: float, end_s: float) -> TranscriptSegment:
    """The contract's segment, its times counted from the start of the recording and inside the piece."""

    def place(time_s: float) -> float:
        return min(float(time_s) + start_s, end_s)

    return TranscriptSegment(
        text=segment.text,
        start_s=place(segment.start),
        end_s=place(segment.end),
        tokens=segment.tokens,
        temperature=segment.temperature or 0.0,
        avg_logprob=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_prob=segment.no_speech_prob,
        seek=segment.seek + round(start_s * _FRAMES_PER_S),
        words=[
            TranscriptWord(word=word.word, start_s=place(word.start), end_s=place(word.end))
            for word in segment.words or ()
        ],
    )
