"""When which model was asked for, thinned out to what tells something: one entry in half a minute each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

APART_S: Final = 30.0
"""Requests that come sooner after another are of the same use."""
ENTRIES_KEPT: Final = 256
"""Of each model."""


class ArrivalRecords(Protocol):
    """Where arrivals outlive the platform; times are seconds of the Unix epoch."""

    def arrivals(self) -> Sequence[tuple[float, str]]:
        """The last of all models, oldest first."""

    def add_arrival(self, model: str, *, at: float) -> None: ...


class Diary:
    """The last arrivals of each model, ascending."""

    def __init__(self, records: ArrivalRecords) -> None:
        self._records = records
        self._entries: dict[str, deque[float]] = {}
        for at, model in records.arrivals():
            self._enter(model, at)

    def note(self, model: str, at: float) -> bool:
        """Whether the arrival is worth an entry."""
        if not self._enter(model, at):
            return False
        self._records.add_arrival(model, at=at)
        return True

    def _enter(self, model: str, at: float) -> bool:
        entries = self._entries.get(model)
        if entries is None:
            entries = self._entries[model] = deque(maxlen=ENTRIES_KEPT)
        if entries and at < entries[-1] - APART_S:
            entries.clear()  # the clock was set back: what is older cannot be told from what is newer
        if entries and at < entries[-1] + APART_S:
            return False
        entries.append(at)
        return True

    def of(self, model: str) -> Sequence[float]:
        return tuple(self._entries.get(model, ()))

    def models(self) -> Iterator[str]:
        return iter(self._entries)
