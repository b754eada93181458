"""A model for tests of the batcher: it computes by doing nothing, writes its batches down, can be held."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ekiben.contract import GivenUp, InvalidRequest, Item, Run

PATIENCE_S = 30


@dataclass(frozen=True)
class Asked:
    """A request: words, each of which is an item."""

    words: Sequence[str]
    group: Hashable = None
    lazy: bool = False
    name: str = ""


@dataclass(eq=False)
class Shouting:
    """Words in capitals. A word with `bad` in it fails; one with `news` tells of itself."""

    max_items: int = 4
    max_length: int | None = None
    batches: list[list[str]] = field(default_factory=list)
    groups: list[set[Hashable]] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    """Of lazy requests."""
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Once for each lazy request that is over."""
    held: bool = False
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """When held: each batch enters, and waits to be let go."""
    given_up: list[list[str]] = field(default_factory=list)

    def items(self, request: Asked) -> Iterable[Item[tuple[str, Hashable]] | None]:
        if "refused" in request.words:
            raise InvalidRequest("one of the words is refused", param="words")
        return self._read(request) if request.lazy else [self._item(request, word) for word in request.words]

    def _item(self, request: Asked, word: str) -> Item[tuple[str, Hashable]]:
        return Item((word, request.group), length=len(word), group=request.group)

    def _read(self, request: Asked) -> Iterator[Item[tuple[str, Hashable]] | None]:
        try:
            for word in request.words:
                yield None
                if word == "broken":
                    raise InvalidRequest("the rest cannot be read", param="words")
                self.read.append(word)
                yield self._item(request, word)
        finally:
            self.closed.release()

    def prepare(self, values: Sequence[tuple[str, Hashable]]) -> list[tuple[str, Hashable]]:
        return list(values)

    def compute(self, prepared: list[tuple[str, Hashable]], run: Run) -> list[str]:
        words = [word for word, _ in prepared]
        self.batches.append(words)
        self.groups.append({group for _, group in prepared})
        if self.held:
            self.entered.release()
            while not self.go.acquire(timeout=0.01):
                if not run.wanted:
                    self.given_up.append(words)
                    raise GivenUp
        for index, word in enumerate(words):
            if "news" in word:
                run.tell(index, f"news of {word}")
        if any("bad" in word for word in words):
            raise ValueError("a bad word")
        return [word.upper() for word in words]

    def answer(self, request: Asked, results: Sequence[Any]) -> list[Any]:
        return list(results)
