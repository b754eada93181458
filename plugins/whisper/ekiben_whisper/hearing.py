"""What the model makes of windows: their encoding, and text at the lowest temperature that will do.

Blocking, and for one thread at a time. Knows nothing of requests: see `listener`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from whisper.decoding import (  # type: ignore[import-untyped]
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    PyTorchInference,
)
from whisper.model import Whisper  # type: ignore[import-untyped]

from ekiben.contract import GivenUp, Run

SCHEDULE: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's own temperatures: the next is tried where the text of the last is no good."""
_MAX_COMPRESSION: Final = 2.4
"""Text that can be packed better than this repeats itself."""
_MIN_LOGPROB: Final = -1.0
_MAX_NO_SPEECH: Final = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to write down of a window."""

    language: str
    start: Sequence[int]
    """The tokens that say it to the model, after the prompt."""
    prompt: Sequence[int]


def encode(model: Whisper, spectrograms: Sequence[torch.Tensor], *, run: Run) -> torch.Tensor:
    """On the CPU one by one: together they would take as long, and could not be given up in between."""
    width = model.encoder.conv1.weight.dtype
    ready = [one.to(model.device, width) for one in spectrograms]
    if model.device.type != "cpu":
        return _encoded(model, ready, run=run)
    return torch.cat([_encoded(model, [one], run=run) for one in ready])


def hear(
    model: Whisper,
    encoded: torch.Tensor,
    tasks: Sequence[Task],
    *,
    temperatures: Sequence[float],
    beam_size: int,
    run: Run,
) -> list[DecodingResult]:
    """Of each window. Those whose text is no good are heard again, together, at the next temperature.

    The prompts must be of one length. Raises GivenUp between two tokens.
    """
    heard: list[DecodingResult] = [None] * len(tasks)
    left = list(range(len(tasks)))
    for temperature in temperatures:
        options = DecodingOptions(
            temperature=temperature,
            prompt=list(tasks[0].prompt),
            fp16=encoded.dtype == torch.float16,
            **_readings(temperature, beam_size=beam_size),
        )
        found = _Decoding(model, options, [tasks[index] for index in left], run=run).run(encoded[left])
        for index, result in zip(left, found, strict=True):
            heard[index] = result
        if not (left := [index for index in left if not is_good(heard[index])]):
            break
    return heard


def is_silence(heard: DecodingResult) -> bool:
    return bool(heard.no_speech_prob > _MAX_NO_SPEECH and heard.avg_logprob <= _MIN_LOGPROB)


def is_good(heard: DecodingResult) -> bool:
    plain = heard.compression_ratio <= _MAX_COMPRESSION and heard.avg_logprob >= _MIN_LOGPROB
    return bool(plain or (heard.no_speech_prob > _MAX_NO_SPEECH and heard.avg_logprob < _MIN_LOGPROB))


def _encoded(model: Whisper, spectrograms: Sequence[torch.Tensor], *, run: Run) -> torch.Tensor:
    if not run.wanted:
        raise GivenUp
    encoded: torch.Tensor = model.encoder(torch.stack(list(spectrograms)))
    return encoded


def _readings(temperature: float, *, beam_size: int) -> dict[str, Any]:
    """Beams are followed at 0 only; above it, the best of as many is taken."""
    if beam_size == 1:
        return {}
    return {"beam_size": beam_size} if temperature == 0 else {"best_of": beam_size}


class _Decoding(DecodingTask):  # type: ignore[misc]
    """The library's, with a language, a task and a prompt for each window; and it can be given up."""

    def __init__(self, model: Whisper, options: DecodingOptions, tasks: Sequence[Task], *, run: Run) -> None:
        super().__init__(model, options)
        self._tasks = tasks
        start = self.initial_tokens.index(self.tokenizer.sot)
        self.inference = _Inference(model, len(self.initial_tokens), start=start, run=run)
        self.sot_index = 0  # in what `_Inference` gives for the first tokens
        if options.beam_size is not None:
            self.decoder.inference = self.inference

    def _get_audio_features(self, mel: torch.Tensor) -> torch.Tensor:
        """They are there already; the library forgets to repeat them for several readings."""
        return mel.repeat_interleave(self.n_group, dim=0)

    def _detect_language(self, audio_features: torch.Tensor, tokens: torch.Tensor) -> tuple[list[str], None]:
        """Where the library writes the language into the first tokens: all of them are written here."""
        before = [self.tokenizer.sot_prev] if self._tasks[0].prompt else []
        rows = [[*before, *task.prompt, *task.start] for task in self._tasks]
        tokens.copy_(torch.tensor(rows))
        return [task.language for task in self._tasks], None


class _Inference(PyTorchInference):  # type: ignore[misc]
    """For a prompt there are no scores over the vocabulary: nobody looks at them, and they are large."""

    def __init__(self, model: Whisper, initial_token_length: int, *, start: int, run: Run) -> None:
        super().__init__(model, initial_token_length)
        self._start = start
        self._run = run

    def logits(self, tokens: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        if not self._run.wanted:
            raise GivenUp
        start = self._start if tokens.shape[-1] == self.initial_token_length else 0
        hook = self.model.decoder.ln.register_forward_hook(lambda _, __, rows: rows[:, start:])
        try:
            logits: torch.Tensor = super().logits(tokens, audio_features)
            return logits
        finally:
            hook.remove()
