"""How the next token is chosen from the model's scores, for one answer.

Each answer draws from a generator of its own, so what others in the batch do has no part in it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

_MOST_LIKELY: Final = 1024
"""So many of the vocabulary are looked at for `top_p`, unless they are not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The parameters of a request, ranges checked."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


class Sampler:
    """The choices of one answer."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = random.Random(sampling.seed)
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self._written: Counter[int] = Counter()

    @property
    def is_plain(self) -> bool:
        """Whether the choice is simply the likeliest token of the model."""
        asked = self._sampling
        return asked.temperature == 0 and not (
            asked.logit_bias
            or asked.presence_penalty
            or asked.frequency_penalty
            or asked.repetition_penalty != 1.0
        )

    def adjust(self, scores: torch.Tensor) -> None:
        """Apply biases and penalties to one row of scores, in place."""
        asked = self._sampling
        if asked.repetition_penalty != 1.0 and (seen := self._seen | self._written.keys()):
            ids = torch.tensor(sorted(seen), device=scores.device)
            old = scores[ids]
            factor = asked.repetition_penalty
            scores[ids] = torch.where(old < 0, old * factor, old / factor)
        if self._written and (asked.presence_penalty or asked.frequency_penalty):
            ids = torch.tensor(list(self._written), device=scores.device)
            counts = torch.tensor(list(self._written.values()), device=scores.device, dtype=scores.dtype)
            scores[ids] -= asked.presence_penalty + asked.frequency_penalty * counts
        if asked.logit_bias:
            ids = torch.tensor(list(asked.logit_bias), device=scores.device)
            biases = list(asked.logit_bias.values())
            scores[ids] += torch.tensor(biases, device=scores.device, dtype=scores.dtype)

    def draw(self, scores: torch.Tensor) -> int:
        """One token, from adjusted and masked scores."""
        asked = self._sampling
        if asked.temperature == 0:
            return int(scores.argmax())
        scores = scores / asked.temperature
        if asked.top_k or asked.top_p < 1 or asked.min_p:
            ids, weights = self._likeliest(scores)
        else:
            ids, weights = None, scores.softmax(-1)
        cumulative = weights.double().cumsum(-1)
        reached = cumulative[-1] * self._random.random()
        # `right` steps over tokens without any weight; rounding may lead past the last one.
        index = int(torch.searchsorted(cumulative, reached.reshape(1), right=True))
        index = min(index, int(weights.nonzero()[-1]))
        return index if ids is None else int(ids[index])

    def note(self, token: int) -> None:
        """The token is part of the answer now."""
        self._written[token] += 1

    def _likeliest(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that `top_k`, `top_p` and `min_p` leave, likeliest first, and their weights."""
        asked = self._sampling
        size = scores.shape[-1]
        count = min(asked.top_k or _MOST_LIKELY, size)
        kept, ids = scores.topk(count)
        weights = kept.softmax(-1) if asked.top_k else (kept - scores.logsumexp(-1)).exp()
        if not asked.top_k and float(weights.sum()) < asked.top_p:
            weights, ids = scores.softmax(-1).sort(descending=True)
        keep = weights.cumsum(-1) - weights < asked.top_p
        keep &= weights >= asked.min_p * weights[0]
        keep[0] = True
        return ids[keep], weights[keep]
