"""What llama.cpp honours of a request."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

from ekiben.contract.text.parameters import OPENAI_SAMPLING, honoured

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

_SEEDS: Final = 2**32 - 1
"""llama.cpp takes 32 bits, and the largest of them for no seed at all."""


def sampling(body: Mapping[str, Any], *, translated: Set[str]) -> dict[str, Any]:
    """The fields that llama.cpp takes as they are. `translated` are the caller's own affair.

    Raises UnsupportedParameter for the first field that nobody honours.
    """
    return honoured(body, engine="llama.cpp", passed=_PASSED, translated=translated)


def seeds(body: Mapping[str, Any], count: int) -> list[dict[str, int]]:
    """The seed of each of several answers to one request: all different, all determined by the given one."""
    seed = body.get("seed")
    return [{} if seed is None else {"seed": (seed + index) % _SEEDS} for index in range(count)]
