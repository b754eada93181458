"""What is known of a model's variants on this machine, gathered for the choice among them.

Asks manifests, the shelves of weights, and whoever knows budgets and earlier needs; imports no plugin and
starts nothing. A look takes less than a millisecond for each variant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from ekiben.catalog.choice import Candidate, Choice, choose, obeys
from ekiben.catalog.parcel import sources_of
from ekiben.catalog.quality import bits_of, parameters_in
from ekiben.contract.model import ModelSpec, SourceSpec, Variant
from ekiben.errors import EngineNotInstalled
from ekiben.plugins.devices import usable_kinds
from ekiben.plugins.discovery import Plugin, Plugins
from ekiben.runtime.process.devices import parts

WORKING_SHARE: Final = 1.15
"""Beside its weights a model holds caches and activations; what was measured counts instead, once it is."""
_BITS_OF_A_BYTE: Final = 8


class Sizes(Protocol):
    """What is needed of the store of weights."""

    def size_bytes(self, source: SourceSpec) -> int | None: ...


class Selection:
    """Chooses for one machine."""

    def __init__(
        self,
        plugins: Plugins,
        sizes: Sizes,
        *,
        device: str = "auto",
        budgets: Callable[[], Mapping[str, int]] = dict,
        learned: Callable[[ModelSpec, int], int | None] = lambda spec, variant: None,
    ) -> None:
        """`device` is the setting. `learned`: what a variant was measured to hold on its devices."""
        self._plugins = plugins
        self._sizes = sizes
        self._device = device
        self._budgets = budgets
        self._learned = learned

    def choose(self, spec: ModelSpec) -> int:
        """The variant to run. Raises EngineNotInstalled, with the command that mends it."""
        index = self.explain(spec).index
        if index is None:
            raise EngineNotInstalled(_reason(spec, self._plugins))
        return index

    def explain(self, spec: ModelSpec) -> Choice:
        """The same with the reasons; never raises for want of an engine."""
        candidates = [self._candidate(spec, index) for index in range(len(spec.variants))]
        return choose(candidates, prefer=spec.prefer, budgets=self._usable_budgets())

    def _usable_budgets(self) -> Mapping[str, int]:
        budgets = self._budgets()
        if self._device == "auto":
            return budgets
        return {device: size for device, size in budgets.items() if device in parts(self._device)}

    def _candidate(self, spec: ModelSpec, index: int) -> Candidate:
        variant = spec.variants[index]
        plugin = self._plugins.engines().get(variant.engine)
        sizes = [self._sizes.size_bytes(source) for source in sources_of(variant)]
        here = [size for size in sizes if size is not None]
        whole = len(here) == len(sizes)
        return Candidate(
            variant=variant,
            obstacle=_obstacle(variant.engine, plugin, self._plugins),
            kinds=usable_kinds(self._plugins, variant.engine),
            spread=spread_of(variant, self._plugins),
            need_bytes=self._learned(spec, index)
            or _expected_bytes(spec, variant, sum(here) if whole else None),
            here=whole,
        )


def spread_of(variant: Variant, plugins: Plugins) -> int:
    """Over how many GPUs a variant goes, as its engine's manifest reads its options."""
    plugin = plugins.engines().get(variant.engine)
    section = None if plugin is None else plugin.manifest.engine
    return 1 if section is None else max(1, section.devices_for(variant.options))


def _expected_bytes(spec: ModelSpec, variant: Variant, weights_bytes: int | None) -> int | None:
    """From the size of its files; of weights that are not here, from what the model's name says."""
    if weights_bytes is None:
        parameters, bits = parameters_in(spec.name), bits_of(variant)
        if parameters is None or bits is None:
            return None
        weights_bytes = int(parameters * bits / _BITS_OF_A_BYTE)
    return int(weights_bytes * WORKING_SHARE)


def _obstacle(engine: str, plugin: Plugin | None, plugins: Plugins) -> str | None:
    if plugin is None:
        return f"there is no engine {engine!r} here"
    if not plugins.standing(plugin).ready:
        return f"its engine is not installed: run `ekiben engine install {engine}`"
    return None


def _reason(spec: ModelSpec, plugins: Plugins) -> str:
    """Why nothing runs, told by the variant that is easiest to mend: known engines before others."""
    engines = plugins.engines()
    variants = [variant for variant in spec.variants if obeys(variant, spec.prefer)] or spec.variants
    wanted = list(dict.fromkeys(variant.engine for variant in variants))
    engine = next((engine for engine in wanted if engine in engines), wanted[0])
    beginning = f"the model {spec.name!r} needs the engine {' or '.join(map(repr, wanted))}"
    if engine in engines:
        problem = plugins.standing(engines[engine]).problem
        return f"{beginning}, which is not installed ({problem}): run `ekiben engine install {engine}`"
    for broken in plugins.broken:
        if broken.id == engine:
            return f"{beginning}, which cannot be used: {broken.reason}"
    return f"{beginning}, and there is no such plugin here: install the package that brings it"
