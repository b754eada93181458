"""The verdict of the conformance suite."""

from __future__ import annotations


class NotConforming(AssertionError):
    """A rule of the contract is broken; the message says which."""


def expect(condition: object, rule: str) -> None:
    """Raise NotConforming with the rule unless the condition holds."""
    if not condition:
        raise NotConforming(rule)
