"""Who hears what happens in the fleet, beyond those who asked for it: metrics, and who starts models ahead.

A witness is told and cannot object. It must return at once and not raise: it is called from the loop.
"""

from __future__ import annotations

from collections.abc import Mapping


class Witness:
    """Takes no notice of anything; override what is of interest."""

    def used(self, model: str) -> None:
        """A request got its lease."""

    def intended(self, model: str) -> None:
        """Somebody asks for the model to be loaded, without a request yet."""

    def started(self, model: str, stages_s: Mapping[str, float]) -> None:
        """A start is over: ready, and where somebody waited for it, the first answer begun."""

    def failed(self, model: str, code: str) -> None:
        """A start failed, or a model died too often; with the error's code."""

    def evicted(self, model: str, *, for_model: str) -> None:
        """A replica goes so that another model fits; empty: so that the budget is kept."""


class Audience(Witness):
    """Several witnesses as one."""

    def __init__(self, *witnesses: Witness) -> None:
        self._witnesses = witnesses

    def used(self, model: str) -> None:
        for witness in self._witnesses:
            witness.used(model)

    def intended(self, model: str) -> None:
        for witness in self._witnesses:
            witness.intended(model)

    def started(self, model: str, stages_s: Mapping[str, float]) -> None:
        for witness in self._witnesses:
            witness.started(model, stages_s)

    def failed(self, model: str, code: str) -> None:
        for witness in self._witnesses:
            witness.failed(model, code)

    def evicted(self, model: str, *, for_model: str) -> None:
        for witness in self._witnesses:
            witness.evicted(model, for_model=for_model)
