"""How long each stage of a start takes, as it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Step(StrEnum):
    """The stages of a start, in their usual order; the same words in the API, metrics and console."""

    QUEUED = "queued"
    EVICTING = "evicting"
    FETCHING = "fetching"
    STARTING = "starting"
    LOADING = "loading"
    FIRST_TOKEN = "first_token"


@dataclass(slots=True)
class Timeline:
    """One start, from the question for it to the first byte of the first answer."""

    since: float
    """When it entered its stage."""
    step: Step | None = Step.QUEUED
    """None: it is over."""
    done_s: dict[str, float] = field(default_factory=dict)
    """Stages that are over; one that was entered again has its times added up."""

    def enter(self, step: Step | None, now: float) -> None:
        """End the stage under way and begin the next."""
        if step is self.step:
            return
        if self.step is not None:
            self.done_s[self.step.value] = self.done_s.get(self.step.value, 0.0) + now - self.since
        self.step = step
        self.since = now

    def stages_s(self, now: float) -> dict[str, float]:
        """With the one under way, so far."""
        if self.step is None:
            return dict(self.done_s)
        so_far = self.done_s.get(self.step.value, 0.0) + max(0.0, now - self.since)
        return {**self.done_s, self.step.value: so_far}
