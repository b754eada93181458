"""Who holds how much of which device's memory: budgets, accounts, and arithmetic on both.

Knows nothing of models or processes, and measures nothing: whoever calls says what is needed and held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

HOST: Final = "cpu"
"""The device whose memory is the machine's own."""

Memory: TypeAlias = Mapping[str, int]
"""Bytes by device: `{"cpu": n}`, or `{"cpu": n, "cuda:0": m}`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model could run, and what it would hold there."""

    device: str
    """One, or several over which it is spread: `cuda:0+cuda:1`."""
    need: Memory | None = None
    """None: not known before its process has looked at the weights."""


class Ledger:
    """An account for each holder; a device without a budget has no limit."""

    def __init__(self, budgets: Memory | None = None) -> None:
        self._budgets: Memory = budgets or {}
        self._accounts: dict[str, Memory] = {}
        self._held: dict[str, int] = {}

    @property
    def budgets(self) -> Memory:
        return self._budgets

    @budgets.setter
    def budgets(self, budgets: Memory) -> None:
        self._budgets = budgets

    @property
    def held(self) -> Memory:
        """The sum of all accounts."""
        return self._held

    def __contains__(self, account: str) -> bool:
        return account in self._accounts

    def holding(self, account: str) -> Memory:
        """Empty when there is no such account."""
        return self._accounts.get(account, {})

    def write(self, account: str, memory: Memory) -> None:
        """Open an account, or set what it holds."""
        self.close(account)
        self._accounts[account] = memory
        for device, size_bytes in memory.items():
            self._held[device] = self._held.get(device, 0) + size_bytes

    def close(self, account: str) -> None:
        """Give back what it holds. Harmless when it is closed."""
        for device, size_bytes in self._accounts.pop(account, {}).items():
            self._held[device] -= size_bytes

    def budget(self, device: str) -> float:
        return self._budgets.get(device, math.inf)

    def free(self, device: str) -> float:
        """Negative when more is held than the budget allows."""
        return self.budget(device) - self._held.get(device, 0)

    def excess(self) -> Memory:
        """What is held above the budgets."""
        over = {device: self._held.get(device, 0) - size for device, size in self._budgets.items()}
        return {device: size for device, size in over.items() if size > 0}


def plus(*memories: Memory) -> dict[str, int]:
    """Their sum."""
    total: dict[str, int] = {}
    for memory in memories:
        for device, size_bytes in memory.items():
            total[device] = total.get(device, 0) + size_bytes
    return total


def largest(first: Memory, second: Memory) -> dict[str, int]:
    """The larger of both, device by device."""
    return {device: max(first.get(device, 0), second.get(device, 0)) for device in {**first, **second}}


def relieve(lacking: Memory, memories: Iterable[Memory]) -> dict[str, int]:
    """What is still lacking once `memories` are free; empty: nothing."""
    freed = plus(*memories)
    left = {device: size - freed.get(device, 0) for device, size in lacking.items()}
    return {device: size for device, size in left.items() if size > 0}


def in_words(size_bytes: float) -> str:
    """`1.2 GB`, `98 MB`: decimal, as makers of memory and disks count."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
