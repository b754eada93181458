"""What the fleet asks of memory: where a plan may run, and what it needed there before.

Needs are learned: the most that was measured of a ready replica, and what was not enough for a load.
They outlive the platform. A need that was never measured is not guessed here; engines estimate it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Protocol

from ekiben.contract.model import ModelSpec
from ekiben.fleet.berths import Plan
from ekiben.fleet.ledger import HOST, Memory, Place, largest
from ekiben.fleet.run_key import RunKey
from ekiben.store.records import Need

GROWTH: Final = 1.25
"""By so much the next need is larger than one that was not enough."""
NOTABLE_SHARE: Final = 0.02
NOTABLE_BYTES: Final = 16 * 2**20
"""A peak that is higher by less than both is not worth writing down."""


class Needs(Protocol):
    """What is remembered of needs: `ekiben.store.records.Records`."""

    def need(self, run: RunKey) -> Need | None: ...

    def keep_need(self, run: RunKey, need: Need) -> None: ...


class Estimator(Protocol):
    """Who is asked for needs that were never measured: `ekiben.fleet.memory.estimates.Estimates`."""

    async def need(self, plan: Plan) -> Memory:
        """Raises LoadFailed."""


class Book:
    """Implements `MemoryBook`. Only `foreseen` takes time."""

    def __init__(
        self,
        *,
        needs: Needs,
        budgets: Callable[[], Memory],
        device: str,
        engine_devices: Callable[[str], Iterable[str]],
        estimates: Estimator,
    ) -> None:
        """`device` is the setting. `engine_devices`: the kinds of device that an engine can use here."""
        self._needs = needs
        self._budgets = budgets
        self._device = device
        self._engine_devices = engine_devices
        self._estimates = estimates

    def budgets(self) -> Memory:
        """What the platform may hold on each device, now."""
        return self._budgets()

    def places(self, plan: Plan) -> tuple[Place, ...]:
        """The devices that the plan may run on, with what was needed there before."""
        return tuple(
            Place(device, self._need(replace(plan, device=device)))
            for device in self._devices_of(plan.engine)
        )

    def learned(self, model: ModelSpec, index: int) -> int | None:
        """What a model's variant needed on its devices, as far as that is known."""
        for device in self._devices_of(model.variants[index].engine):
            known = self._needs.need(RunKey.on(device, model, index))
            need = {} if known is None else largest(known.peak, known.floor)
            if device in need:
                return need[device]
        return None

    async def foreseen(self, plan: Plan) -> tuple[Place, ...]:
        """As `places`, with what the engine estimates where nothing was measured. Raises LoadFailed."""
        return tuple([await self._foreseen(place, plan) for place in self.places(plan)])

    async def _foreseen(self, place: Place, plan: Plan) -> Place:
        if place.need is not None:
            return place
        return Place(place.device, await self._estimates.need(replace(plan, device=place.device)))

    def measured(self, plan: Plan, memory: Memory) -> None:
        """A ready replica of the plan holds so much; the most is remembered."""
        run = RunKey.of(plan)
        known = self._needs.need(run) or Need()
        if any(_is_notable(size, known.peak.get(device, 0)) for device, size in memory.items()):
            self._needs.keep_need(run, replace(known, peak=largest(known.peak, memory)))

    def ran_out(self, plan: Plan, memory: Memory) -> None:
        """With so much set aside a load ran out of memory: the next one needs more."""
        run = RunKey.of(plan)
        known = self._needs.need(run) or Need()
        grown = {device: int(size * GROWTH) for device, size in memory.items()}
        self._needs.keep_need(run, replace(known, floor=largest(known.floor, grown)))

    def _devices_of(self, engine: str) -> list[str]:
        """GPUs, where there are any and the engine can use them; otherwise the host."""
        if self._device != "auto":
            return [self._device]
        gpus = [device for device in self._budgets() if device != HOST]
        kinds = set(self._engine_devices(engine)) if gpus else set()
        return [gpu for gpu in gpus if gpu.partition(":")[0] in kinds] or [HOST]

    def _need(self, plan: Plan) -> dict[str, int] | None:
        """Learned, unless something is not known of it. A load that ran out gets all there is at most."""
        known = self._needs.need(RunKey.of(plan))
        if known is None:
            return None
        budgets = self._budgets()
        floor = {device: min(size, budgets.get(device, size)) for device, size in known.floor.items()}
        need = largest(known.peak, floor)
        return need if {HOST, plan.device} <= need.keys() else None


def _is_notable(size_bytes: int, known_bytes: int) -> bool:
    return size_bytes > max(known_bytes * (1 + NOTABLE_SHARE), known_bytes + NOTABLE_BYTES)
