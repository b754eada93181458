"""What the model makes of windows: their encoding, and text at the lowest temperature that will do.

Blocking, and for one thread at a time. Knows nothing of requests: see `listener`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import GivenUp, Run

if TYPE_CHECKING:
    from faster_whisper import WhisperModel  # type: ignore[import-untyped]

SCHEDULE: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's own temperatures: the next is tried where the text of the last is no good."""
_MAX_COMPRESSION: Final = 2.4
"""Text that can be packed better than this repeats itself."""
_MIN_LOGPROB: Final = -1.0
_MAX_NO_SPEECH: Final = 0.6
_SAMPLES_DRAWN: Final = 5
"""At a temperature above 0, the best of so many is taken."""
_FIRST_TIMESTAMP: Final = 50
"""The first text begins within so many fiftieths of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The text of a window, in tokens, timestamps among them."""

    tokens: Sequence[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float

    @property
    def is_silence(self) -> bool:
        return self.no_speech_prob > _MAX_NO_SPEECH and self.avg_logprob < _MIN_LOGPROB

    @property
    def is_good(self) -> bool:
        return self.is_silence or (
            self.compression_ratio <= _MAX_COMPRESSION and self.avg_logprob >= _MIN_LOGPROB
        )


class Encoded:
    """Windows as the encoder understands them, to be taken out one by one or several together.

    On the CPU windows are encoded one after the other: together they would take as long, and could not be
    given up in between. Only the decoder gains by being given several.
    """

    def __init__(self, model: WhisperModel, features: Sequence[Any], *, run: Run) -> None:
        self._model = model
        self._features = features
        self._apart: list[Any] = []
        self._together: Any = None
        if model.model.device != "cpu":
            self._together = self._encode(range(len(features)))
            return
        for index in range(len(features)):
            if not run.wanted:
                raise GivenUp
            self._apart.append(self._encode([index]))

    def take(self, indices: Sequence[int]) -> Any:
        """Their encodings, as one."""
        if self._together is not None:
            every = list(indices) == list(range(len(self._features)))
            return self._together if every else self._encode(indices)
        if len(indices) == 1:
            return self._apart[indices[0]]
        import ctranslate2  # type: ignore[import-untyped]
        import numpy as np

        views = [self._apart[index] for index in indices]
        if views[0].dtype != ctranslate2.DataType.float32:  # such as NumPy may not know
            return self._encode(indices)
        return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(view) for view in views]))

    def _encode(self, indices: Iterable[int]) -> Any:
        import numpy as np

        return self._model.encode(np.stack([self._features[index] for index in indices]))


def hear(
    model: WhisperModel,
    encoded: Encoded,
    prompts: Sequence[list[int]],
    *,
    temperatures: Sequence[float],
    beam_size: int,
    suppressed: Sequence[int],
    run: Run,
) -> list[Heard]:
    """Of each window. Those whose text is no good are heard again, together, at the next temperature."""
    tried: list[list[Heard]] = [[] for _ in prompts]
    left = list(range(len(prompts)))
    for temperature in temperatures:
        if not run.wanted:
            raise GivenUp
        found = model.model.generate(
            encoded.take(left),
            [prompts[index] for index in left],
            max_length=model.max_length,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=list(suppressed),
            max_initial_timestamp_index=_FIRST_TIMESTAMP,
            **_sampling(temperature, beam_size=beam_size),
        )
        for index, result in zip(left, found, strict=True):
            tried[index].append(_heard(model, result, temperature))
        if not (left := [index for index in left if not tried[index][-1].is_good]):
            break
    return [_best(attempts) for attempts in tried]


def _sampling(temperature: float, *, beam_size: int) -> dict[str, Any]:
    if temperature == 0:
        return {"beam_size": beam_size}
    return {
        "beam_size": 1,
        "num_hypotheses": _SAMPLES_DRAWN,
        "sampling_topk": 0,
        "sampling_temperature": temperature,
    }


def _heard(model: WhisperModel, result: Any, temperature: float) -> Heard:
    from faster_whisper.transcribe import get_compression_ratio  # type: ignore[import-untyped]

    tokens = result.sequences_ids[0]
    end = model.hf_tokenizer.token_to_id("<|endoftext|>")
    text = model.hf_tokenizer.decode([token for token in tokens if token < end]).strip()
    return Heard(
        tokens=tokens,
        temperature=temperature,
        # The score is an average without the end of the text, which counts as well.
        avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
        compression_ratio=get_compression_ratio(text),
        no_speech_prob=result.no_speech_prob,
    )


def _best(attempts: Sequence[Heard]) -> Heard:
    """The one that was good, or else the likeliest of those that do not repeat themselves."""
    if attempts[-1].is_good:
        return attempts[-1]
    plain = [heard for heard in attempts if heard.compression_ratio <= _MAX_COMPRESSION]
    return max(plain or attempts, key=lambda heard: heard.avg_logprob)
