"""What the fleet asks of memory: where a plan may run, and what it needed there before.

Needs are learned: the most that was measured of a ready replica, and what was not enough for a load.
They outlive the platform. A need that was never measured is not guessed here; engines estimate it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from ekiben.contract.model import ModelSpec, Variant
from ekiben.errors import InsufficientMemory
from ekiben.fleet.decisions.ledger import HOST, Memory, Place, largest
from ekiben.fleet.memory.spreads import spreads
from ekiben.fleet.processes.berths import Plan
from ekiben.fleet.run_key import RunKey
from ekiben.runtime.process.devices import parts
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
        spread: Callable[[Variant], int] = lambda variant: 1,
    ) -> None:
        """`device` is the setting. `engine_devices`: the kinds of device that an engine can use here.
        `spread`: over how many GPUs a variant goes."""
        self._spread = spread
        self._needs = needs
        self._budgets = budgets
        self._device = device
        self._engine_devices = engine_devices
        self._estimates = estimates

    def budgets(self) -> Memory:
        """What the platform may hold on each device, now."""
        return self._budgets()

    def places(self, plan: Plan) -> tuple[Place, ...]:
        """The devices that the plan may run on, with what was needed there before.

        Raises InsufficientMemory when there are fewer than it goes over.
        """
        devices = self._devices_of(plan.model.variants[plan.variant])
        if not devices:
            raise InsufficientMemory(self._too_few(plan))
        needs = {device: self._need(replace(plan, device=device)) for device in devices}
        return tuple(Place(device, need or _like(device, needs)) for device, need in needs.items())

    def learned(self, model: ModelSpec, index: int) -> int | None:
        """What a model's variant needed on its devices together, as far as that is known."""
        for device in self._devices_of(model.variants[index]):
            known = self._needs.need(RunKey.on(device, model, index))
            need = {} if known is None else largest(known.peak, known.floor)
            if need.keys() >= set(parts(device)):
                return sum(need[part] for part in parts(device))
        return None

    async def foreseen(self, plan: Plan) -> tuple[Place, ...]:
        """As `places`, with what the engine estimates where nothing was measured. Raises LoadFailed."""
        needs = {place.device: place.need for place in self.places(plan)}
        for device, need in needs.items():
            if need is None:
                asked = replace(plan, device=device)
                needs[device] = _like(device, needs) or await self._estimates.need(asked)
        return tuple(Place(device, need) for device, need in needs.items())

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

    def _devices_of(self, variant: Variant) -> list[str]:
        """GPUs, where there are any and the engine can use them; otherwise the host. Empty: too few GPUs."""
        if self._device == HOST:
            return [HOST]
        if self._device != "auto":
            return spreads(parts(self._device), self._spread(variant))
        gpus = [device for device in self._budgets() if device != HOST]
        kinds = set(self._engine_devices(variant.engine)) if gpus else set()
        usable = [gpu for gpu in gpus if gpu.partition(":")[0] in kinds]
        return spreads(usable, self._spread(variant)) if usable else [HOST]

    def _too_few(self, plan: Plan) -> str:
        there = [device for device in self._budgets() if device != HOST]
        given = there if self._device == "auto" else list(parts(self._device))
        count = self._spread(plan.model.variants[plan.variant])
        return (
            f"{plan.model.name!r} goes over {count} devices of one kind, and there are {len(given)} "
            f"({', '.join(given)}): spread it over fewer in its options"
        )

    def _need(self, plan: Plan) -> dict[str, int] | None:
        """Learned, unless something is not known of it. A load that ran out gets all there is at most."""
        known = self._needs.need(RunKey.of(plan))
        if known is None:
            return None
        budgets = self._budgets()
        floor = {device: min(size, budgets.get(device, size)) for device, size in known.floor.items()}
        need = largest(known.peak, floor)
        return need if {HOST, *parts(plan.device)} <= need.keys() else None


def _like(device: str, needs: Mapping[str, Memory | None]) -> Memory | None:
    """Of a spread model: what it needed on other devices of the kind, since it is the same on each."""
    here = parts(device)
    for other, need in needs.items():
        there = parts(other)
        if need is not None and len(there) > 1 and there[0].partition(":")[0] == here[0].partition(":")[0]:
            share = max(need[part] for part in there)
            return {HOST: need[HOST]} | dict.fromkeys(here, share)
    return None


def _is_notable(size_bytes: int, known_bytes: int) -> bool:
    return size_bytes > max(known_bytes * (1 + NOTABLE_SHARE), known_bytes + NOTABLE_BYTES)
