"""What the answers of a batch took in tokens, as OpenAI tells it of a batch. Plain computation."""

from __future__ import annotations

from typing import Any


class Usage:
    """The sum over answers of any endpoint: each has names of its own for the same two numbers."""

    def __init__(self) -> None:
        self.input_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.reasoning_tokens = 0

    def add(self, answer: object) -> None:
        """The body of one answer; one that says nothing of its usage adds nothing."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if not isinstance(usage, dict):
            return
        read = "input_tokens" if "input_tokens" in usage else "prompt_tokens"
        made = "output_tokens" if "output_tokens" in usage else "completion_tokens"
        self.input_tokens += _count(usage, read)
        self.output_tokens += _count(usage, made)
        self.cached_tokens += _count(usage.get(f"{read}_details"), "cached_tokens")
        self.reasoning_tokens += _count(usage.get(f"{made}_details"), "reasoning_tokens")

    def told(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


def _count(counts: object, name: str) -> int:
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if isinstance(count, int) else 0
