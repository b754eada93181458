"""Which replica gets a request: the one with the fewest in flight; among equals, the one that has seen
the longest part of the conversation, and so has it in its KV cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

REMEMBERED: Final = 512
"""Prefixes that are remembered of each replica."""


class Target(Protocol):
    @property
    def in_flight(self) -> int: ...
    @property
    def seen(self) -> Prefixes: ...


R = TypeVar("R", bound=Target)


class Prefixes:
    """The prefixes of conversations that went through a replica; the oldest are forgotten."""

    def __init__(self) -> None:
        self._known: dict[int, None] = {}

    def note(self, prefix: Sequence[int]) -> None:
        """`prefix`: hashes of a conversation's growing beginnings, shortest first."""
        for part in prefix:
            self._known.pop(part, None)
            self._known[part] = None
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def match(self, prefix: Sequence[int]) -> int:
        """How many of the beginnings are known."""
        for length, part in enumerate(prefix):
            if part not in self._known:
                return length
        return len(prefix)


def choose(replicas: Iterable[R], prefix: Sequence[int]) -> R | None:
    """None when there are none to choose from."""
    candidates = list(replicas)
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    fewest = min(candidate.in_flight for candidate in candidates)
    equals = [candidate for candidate in candidates if candidate.in_flight == fewest]
    return max(equals, key=lambda candidate: candidate.seen.match(prefix))
