"""What must be there before a replica is started: an engine that runs the model, and its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ekiben.catalog.choice import choose_variant
from ekiben.contract.model import ModelSpec, SourceSpec
from ekiben.contract.source import FetchProgress
from ekiben.fleet.launcher import Plan
from ekiben.plugins.bentos import bento_folder
from ekiben.plugins.discovery import Plugins


class Weights(Protocol):
    async def ensure(self, source: SourceSpec, *, report: Callable[[FetchProgress], None]) -> Path: ...

    def local_path(self, source: SourceSpec) -> Path | None: ...


class CatalogPreparer:
    """Chooses among the variants of the spec and fetches through the weights store."""

    def __init__(self, *, plugins: Plugins, weights: Weights, device: str, threads: int) -> None:
        self._plugins = plugins
        self._weights = weights
        self._device = device
        self._threads = threads

    async def prepare(self, spec: ModelSpec, report: Callable[[FetchProgress], None]) -> Plan:
        variant = choose_variant(spec, self._plugins)
        weights = await self._weights.ensure(spec.variants[variant].source, report=report)
        return self._plan(spec, variant, weights)

    def look(self, spec: ModelSpec) -> Plan | None:
        """The plan, if the weights are here. Raises EngineNotInstalled."""
        variant = choose_variant(spec, self._plugins)
        weights = self._weights.local_path(spec.variants[variant].source)
        return None if weights is None else self._plan(spec, variant, weights)

    def _plan(self, spec: ModelSpec, variant: int, weights: Path) -> Plan:
        return Plan(
            model=spec,
            variant=variant,
            weights=weights,
            bento=bento_folder(spec.family),
            device=self._device,
            threads=self._threads,
        )
