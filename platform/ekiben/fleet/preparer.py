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


class CatalogPreparer:
    """Chooses among the variants of the spec and fetches through the weights store."""

    def __init__(self, *, plugins: Plugins, weights: Weights, device: str, threads: int) -> None:
        self._plugins = plugins
        self._weights = weights
        self._device = device
        self._threads = threads

    async def prepare(self, spec: ModelSpec, report: Callable[[FetchProgress], None]) -> Plan:
        variant = choose_variant(spec, self._plugins)
        source = spec.variants[variant].source
        weights = await self._weights.ensure(source, report=report)
        return Plan(
            model=spec,
            variant=variant,
            weights=weights,
            bento=bento_folder(spec.family),
            device=self._device,
            threads=self._threads,
        )
