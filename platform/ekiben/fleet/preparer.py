"""What must be there before a replica is started: an engine that runs the model, and its weights."""

from __future__ import annotations

from collections.abc import Callable

from ekiben.catalog.parcel import Parcel, Shelves, fetch_parcel, local_parcel
from ekiben.contract.model import ModelSpec
from ekiben.contract.source import FetchProgress
from ekiben.fleet.processes.launcher import Plan
from ekiben.plugins.bentos import bento_folder


class CatalogPreparer:
    """Has a variant of the spec chosen, and fetches through the weights store."""

    def __init__(
        self, *, choose: Callable[[ModelSpec], int], weights: Shelves, device: str, threads: int
    ) -> None:
        """`choose`: which of a spec's variants runs here; raises EngineNotInstalled."""
        self._choose = choose
        self._weights = weights
        self._device = device
        self._threads = threads

    async def prepare(self, spec: ModelSpec, report: Callable[[FetchProgress], None]) -> Plan:
        variant = self._choose(spec)
        parcel = await fetch_parcel(spec.variants[variant], self._weights, report=report)
        return self._plan(spec, variant, parcel)

    def look(self, spec: ModelSpec) -> Plan | None:
        """The plan, if the weights are here. Raises EngineNotInstalled."""
        variant = self._choose(spec)
        parcel = local_parcel(spec.variants[variant], self._weights)
        return None if parcel is None else self._plan(spec, variant, parcel)

    def _plan(self, spec: ModelSpec, variant: int, parcel: Parcel) -> Plan:
        return Plan(
            model=spec,
            variant=variant,
            weights=parcel.weights,
            companions=parcel.companions,
            adapters=parcel.adapters,
            bento=bento_folder(spec.family),
            device=self._device,
            threads=self._threads,
        )
