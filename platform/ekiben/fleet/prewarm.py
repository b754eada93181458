"""Starts models ahead of their requests: by the schedule of their specs, and by patterns that pay.

Owns what was started ahead and what came of it. Decides only that a model is wanted early: whether there
is room for it without harm to anybody is decided in the core, and the formulas are in `policy`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from ekiben.clock import LOCAL_ZONE, SYSTEM_CLOCK, Clock
from ekiben.contract.model import ModelSpec
from ekiben.errors import EkibenError
from ekiben.fleet.decisions.diary import Diary
from ekiben.fleet.policy.patterns import LEAST_HITS, Burden, Pattern, find_pattern
from ekiben.fleet.policy.schedule import next_due
from ekiben.fleet.types import ModelStatus, State
from ekiben.fleet.witness import Witness

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 30.0
"""A spec that was added, or a clock that was set, is noticed after so long at the latest."""
SCHEDULED_HOLD_S: Final = 900.0
"""How long a scheduled model waits for its first request, where neither its spec nor a setting says."""
NOTES_KEPT: Final = 100
GONE: Final = frozenset({State.COLD, State.FAILED})
"""The states of a model that is not there, nor on its way."""


class Trigger(StrEnum):
    INTENT = "intent"
    """Somebody asked for it to be loaded."""
    SCHEDULE = "schedule"
    PATTERN = "pattern"


class Outcome(StrEnum):
    WAITING = "waiting"
    USED = "used"
    UNUSED = "unused"
    """It came up, and left without a request."""
    SKIPPED = "skipped"
    """It did not come up: there was no room for it, or it failed."""


class Models(Protocol):
    """What is asked of the catalog."""

    def specs(self) -> Sequence[ModelSpec]: ...


class Fleet(Protocol):
    """What is asked of the fleet."""

    def status(self, model: str) -> ModelStatus:
        """Raises ModelNotFound."""

    def prewarm(self, model: str, *, keep_alive_s: float) -> None:
        """Bring it up if that harms nobody, and let it go when it was not used for so long."""


@dataclass(slots=True)
class Note:
    """One start ahead."""

    model: str
    trigger: Trigger
    at: datetime
    after: str | None = None
    """The model that it follows."""
    came_up: bool = False
    outcome: Outcome = Outcome.WAITING

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "trigger": self.trigger.value,
            "after": self.after,
            "at": self.at.isoformat(timespec="seconds"),
            "outcome": self.outcome.value,
        }


class Prewarmer(Witness):
    """Hears of requests; `start` it once the fleet runs, `stop` it before the fleet stops."""

    def __init__(
        self,
        *,
        models: Models,
        diary: Diary,
        burden: Callable[[ModelSpec], Burden | None],
        keep_alive_s: float | None,
        patterns: bool,
        tell: Callable[[Note], None] = lambda note: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`burden`: None where too little is known of a model. `keep_alive_s`: of models whose spec says
        nothing; None: the policy decides. `tell` is called once the outcome of a start is certain."""
        self._models = models
        self._diary = diary
        self._burden = burden
        self._keep_alive_s = keep_alive_s
        self._by_pattern = patterns
        self._tell = tell
        self._clock = clock
        self._since = self._local_now()
        self._fleet: Fleet | None = None
        self._task: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self._open: dict[str, Note] = {}
        self._notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self._patterns: dict[tuple[str, str], Pattern] = {}

    def start(self, fleet: Fleet) -> None:
        """Follow the schedules, and begin to start models."""
        self._fleet = fleet
        self._since = self._local_now()
        self._task = asyncio.create_task(self._follow_schedules(), name="prewarm schedules")

    async def stop(self) -> None:
        """Nothing is started any more."""
        self._fleet = None
        tasks = self._looking | ({self._task} if self._task is not None else set())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def settled(self) -> None:
        """Return when it is found out who follows the requests so far."""
        if self._looking:
            await asyncio.wait(self._looking)

    def as_json(self) -> dict[str, Any]:
        """What was started ahead lately, newest first, and the patterns that are believed."""
        patterns = [
            {
                "model": follower,
                "after": leader,
                "window_s": round(pattern.window_s, 1),
                "tried": pattern.trial.prewarms,
                "right": pattern.trial.hits,
                "saved_s": round(pattern.trial.saved_s, 3),
                "gigabyte_seconds": round(pattern.trial.byte_seconds / 1e9, 3),
            }
            for (leader, follower), pattern in sorted(self._patterns.items())
        ]
        return {"prewarms": [note.as_json() for note in reversed(self._notes)], "patterns": patterns}

    # What is heard

    def used(self, model: str) -> None:
        note = self._open.get(model)
        if note is not None:
            self._close(note, Outcome.USED)
        at = self._clock.now().timestamp()
        if self._diary.note(model, at) and self._by_pattern and self._fleet is not None:
            task = asyncio.create_task(self._start_followers(model), name=f"followers of {model}")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    def intended(self, model: str) -> None:
        if self._is_cold(model):
            self._write(Note(model, Trigger.INTENT, self._clock.now()))

    def started(self, model: str, stages_s: Mapping[str, float]) -> None:
        if model in self._open:
            self._open[model].came_up = True

    # Patterns

    async def _start_followers(self, leader: str) -> None:
        """Look at one model after the other, and let requests pass in between."""
        leads = self._diary.of(leader)[:-1]
        for spec in self._models.specs():
            await asyncio.sleep(0)
            if spec.name != leader and (pattern := self._pattern(leader, leads, spec)) is not None:
                self._start(Note(spec.name, Trigger.PATTERN, self._clock.now(), leader), pattern.window_s)

    def _pattern(self, leader: str, leads: Sequence[float], spec: ModelSpec) -> Pattern | None:
        """Of models that are cold now."""
        follows = self._diary.of(spec.name)
        if min(len(leads), len(follows)) < 2 * LEAST_HITS or not self._is_cold(spec.name):
            return None
        burden = self._burden(spec)
        pattern = None if burden is None else find_pattern(leads, follows, burden=burden)
        if pattern is None:
            self._patterns.pop((leader, spec.name), None)
        else:
            self._patterns[leader, spec.name] = pattern
        return pattern

    def _is_cold(self, model: str) -> bool:
        """What left the catalog is not there either."""
        try:
            return self._fleet is not None and self._fleet.status(model).state in GONE
        except EkibenError:
            return True

    # Schedules

    async def _follow_schedules(self) -> None:
        while True:
            await asyncio.sleep(self._until_next())
            self.tick()

    def _until_next(self) -> float:
        due = [
            at
            for spec in self._models.specs()
            if spec.prewarm and (at := next_due(spec.prewarm, self._since))
        ]
        first_s = min(((at - self._clock.now()).total_seconds() for at in due), default=LOOK_EVERY_S)
        return min(max(first_s, 0.0), LOOK_EVERY_S)

    def tick(self) -> None:
        """Start what has come due since the last time, and look what came of what was started."""
        now = self._local_now()
        for spec in self._models.specs():
            due = next_due(spec.prewarm, self._since) if spec.prewarm else None
            if due is not None and due <= now:
                self._start(Note(spec.name, Trigger.SCHEDULE, self._clock.now()), self._held_s(spec))
        self._since = now
        self._look_after()

    def _local_now(self) -> datetime:
        return self._clock.now().astimezone(LOCAL_ZONE)

    def _held_s(self, spec: ModelSpec) -> float:
        given_s = self._keep_alive_s if spec.keep_alive is None else spec.keep_alive
        return SCHEDULED_HOLD_S if given_s is None else given_s

    # What was started

    def _start(self, note: Note, hold_s: float) -> None:
        """Of a model that is there already, the stay is prolonged at most."""
        if self._fleet is None:
            return
        try:
            status = self._fleet.status(note.model)
            cold = status.state in GONE
            if cold:
                self._write(note)
            elif status.unloads_in_s is None or status.unloads_in_s >= hold_s:
                return  # it stays as long as that anyway
            self._fleet.prewarm(note.model, keep_alive_s=hold_s)
        except EkibenError as error:  # it left the catalog just now
            logger.info("model %s is not started ahead: %s", note.model, error.message)
            return
        if cold:
            why = f" after {note.after}" if note.after else ""
            logger.info("model %s is started ahead by %s%s", note.model, note.trigger, why)

    def _write(self, note: Note) -> None:
        if (earlier := self._open.get(note.model)) is not None:
            self._close(earlier, _missed(earlier))
        self._open[note.model] = note
        self._notes.append(note)

    def _look_after(self) -> None:
        """Those that have left, or never came up, were for nothing."""
        for note in list(self._open.values()):
            if self._is_cold(note.model):
                self._close(note, _missed(note))

    def _close(self, note: Note, outcome: Outcome) -> None:
        del self._open[note.model]
        note.outcome = outcome
        self._tell(note)


def _missed(note: Note) -> Outcome:
    return Outcome.UNUSED if note.came_up else Outcome.SKIPPED
