"""Tokens of a request whose answers are computed apart from each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def total_usage(answers: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """From (prompt, usage) pairs: what was written is summed, each prompt counts once."""
    written = 0
    read: dict[int, int] = {}
    cached: dict[int, int] = {}
    for prompt, usage in answers:
        written += usage["completion_tokens"]
        if prompt not in read:
            read[prompt] = usage["prompt_tokens"]
            cached[prompt] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    prompt_tokens = sum(read.values())
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
    }
