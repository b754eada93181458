"""What the batch needs to know of adapters, so that PEFT is imported only where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol


class AdapterSet(Protocol):
    def arrange(self, rows: Sequence[tuple[str | None, int]]) -> None:
        """The next step: for each request in the row its adapter and how many tokens it has there."""

    def alone(self, adapter: str | None, length: int) -> AbstractContextManager[None]:
        """For a computation besides the batch."""
