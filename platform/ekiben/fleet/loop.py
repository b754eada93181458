"""The turning of the core: events in, one after the other and to the end, effects out, and the alarm."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ekiben.clock import Clock
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.events import Effect, Event, Tick


class CoreLoop:
    """The only one who calls the core with events. `carry_out` may post further ones."""

    def __init__(self, core: FleetCore, carry_out: Callable[[Effect], None], *, clock: Clock) -> None:
        self._core = core
        self._carry_out = carry_out
        self._clock = clock
        self._inbox: deque[Event] = deque()
        self._taking = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

    def post(self, event: Event) -> None:
        """Take the event now, or after the one that is being taken."""
        self._inbox.append(event)
        if self._taking:
            return
        self._taking = True
        try:
            while self._inbox:
                for effect in self._core.handle(self._inbox.popleft(), self._clock.monotonic()):
                    self._carry_out(effect)
        finally:
            self._taking = False
        self._set_alarm()

    def close(self) -> None:
        """No alarm rings any more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _set_alarm(self) -> None:
        """An alarm that has become needless rings all the same: most are put off with every request."""
        at = self._core.next_wake()
        if at is None:
            return
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        delay_s = max(0.0, at - self._clock.monotonic())
        self._alarm = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.post(Tick())
