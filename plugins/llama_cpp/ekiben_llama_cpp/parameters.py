"""What llama.cpp honours of a request, and what of it must be refused rather than dropped."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

from ekiben.contract import UnsupportedParameter

OPENAI_SAMPLING: Final = frozenset(
    {"frequency_penalty", "logit_bias", "presence_penalty", "stop", "temperature", "top_p"}
)
LLAMA_SAMPLING: Final = frozenset(
    {
        "cache_prompt",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "dynatemp_range",
        "ignore_eos",
        "min_keep",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "repeat_last_n",
        "repeat_penalty",
        "samplers",
        "top_k",
        "top_n_sigma",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    }
)
"""Extensions of llama.cpp's own, checked by it. Without `grammar`: a nested one overflows its stack."""

_PASSED: Final = OPENAI_SAMPLING | LLAMA_SAMPLING
_NEEDLESS: Final = frozenset(
    {
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "stream",
        "stream_options",
        "user",
    }
)
"""Accepted, and without a meaning here."""

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
}
"""Accepted with the values that ask for nothing."""

_SEEDS: Final = 2**32 - 1
"""llama.cpp takes 32 bits, and the largest of them for no seed at all."""


def sampling(body: Mapping[str, Any], *, translated: Set[str]) -> dict[str, Any]:
    """The fields that llama.cpp takes as they are. `translated` are the caller's own affair.

    Raises UnsupportedParameter for the first field that nobody honours.
    """
    passed: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in translated or name in _NEEDLESS or value in _NEUTRAL.get(name, ()):
            continue
        if name not in _PASSED:
            raise UnsupportedParameter(
                f"{name[:64]!r} cannot be honoured by llama.cpp: leave it out", param=name[:64]
            )
        passed[name] = value
    return passed


def seeds(body: Mapping[str, Any], count: int) -> list[dict[str, int]]:
    """The seed of each of several answers to one request: all different, all determined by the given one."""
    seed = body.get("seed")
    return [{} if seed is None else {"seed": (seed + index) % _SEEDS} for index in range(count)]
