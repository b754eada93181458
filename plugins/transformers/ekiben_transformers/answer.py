"""One answer as it is written, token by token, on the thread that computes batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from ekiben_transformers.grammar import Grammar
from ekiben_transformers.sampling import Sampler, Sampling
from ekiben_transformers.vocabulary import Vocabulary

STOP: Final = "stop"
LENGTH: Final = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is to be written after a prompt."""

    prompt: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stops: Sequence[str] = ()
    logprobs: int | None = None
    """With each token its logarithmic probability, and those of so many alternatives."""
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    adapter: str | None = None
    special: bool = False
    """Whether tokens that are marks of the model belong to the text."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token, its logarithmic probability, and the likeliest tokens in its place with theirs."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer. The last one has a reason, and how many tokens there were."""

    text: str = ""
    scores: Sequence[TokenScore] = ()
    finish_reason: str | None = None
    written: int = 0


@dataclass(slots=True)
class _Held:
    """Text that may be the beginning of a stop text, and the tokens it comes from."""

    text: str = ""
    scores: list[tuple[int, TokenScore]] = field(default_factory=list)
    """With where in the text each begins."""


class Writer:
    """Chooses the tokens of one answer, and knows when it is over."""

    def __init__(self, ask: Ask, vocabulary: Vocabulary, grammar: Grammar | None) -> None:
        self.ask = ask
        self.written = 0
        self.read = 0
        """Tokens of the prompt that were computed; the others lay in the cache."""
        self._grammar = grammar
        self._sampler = Sampler(ask.sampling, ask.prompt)
        self._reader = vocabulary.reader(ask.prompt, special=ask.special)
        self._held = _Held()
        self._score: TokenScore | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it takes the likeliest token, and nobody wants to know more."""
        return self._sampler.is_plain and self._grammar is None and self.ask.logprobs is None

    def usage(self) -> dict[str, Any]:
        """As the API counts tokens."""
        prompt = len(self.ask.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.written,
            "prompt_tokens_details": {"cached_tokens": max(0, prompt - self.read)},
        }

    def choose(self, scores: torch.Tensor) -> int:
        """The next token. `scores` is a row of float32 that may be written into."""
        logprobs = scores.log_softmax(-1) if self.ask.logprobs is not None else None
        self._sampler.adjust(scores)
        if self._grammar is not None:
            self._grammar.mask(scores)
        token = self._sampler.draw(scores)
        if logprobs is not None:
            self._score = score_of(logprobs, token, self.ask.logprobs or 0)
        return token

    def accept(self, token: int) -> Piece:
        """The token is the next one. What more there is to tell."""
        self.written += 1
        self._sampler.note(token)
        score, self._score = self._score, None
        over = self._grammar is not None and self._grammar.accept(token)
        if token in self.ask.ends:
            return self._finish("", STOP)
        text = self._reader.add(token)
        if score is not None:
            self._held.scores.append((len(self._held.text), score))
        if over or self.written >= self.ask.max_tokens:
            return self._finish(text + self._reader.finish(), STOP if over else LENGTH)
        self._held.text += text
        if (cut := self._stop_at()) is not None:
            return self._release(cut, finish_reason=STOP)
        return self._release(len(self._held.text) - self._suspect())

    def _finish(self, text: str, reason: str) -> Piece:
        self._held.text += text or self._reader.finish()
        cut = self._stop_at()
        return self._release(
            len(self._held.text) if cut is None else cut, finish_reason=STOP if cut is not None else reason
        )

    def _release(self, end: int, *, finish_reason: str | None = None) -> Piece:
        """The held text up to `end`. At the end of the answer the rest is dropped."""
        held = self._held
        stopped = finish_reason is not None and end < len(held.text)
        all_of_it = end == len(held.text)
        told = [score for at, score in held.scores if at < end or (all_of_it and not stopped)]
        piece = Piece(held.text[:end], told, finish_reason, self.written)
        held.text = held.text[end:]
        held.scores = [] if all_of_it else [(at - end, score) for at, score in held.scores if at >= end]
        return piece

    def _stop_at(self) -> int | None:
        """Where the first stop text begins."""
        found = [at for stop in self.ask.stops if (at := self._held.text.find(stop)) >= 0]
        return min(found, default=None)

    def _suspect(self) -> int:
        """How long the end of the text is that may be the beginning of a stop text."""
        text = self._held.text
        return max(
            (
                length
                for stop in self.ask.stops
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )


def score_of(logprobs: torch.Tensor, token: int, count: int) -> TokenScore:
    """From a row of logarithmic probabilities."""
    top: list[tuple[int, float]] = []
    if count:
        values, ids = logprobs.topk(min(count, logprobs.shape[-1]))
        top = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenScore(token, float(logprobs[token]), top)
