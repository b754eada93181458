"""Which of a model's variants to run on this machine: the first whose engine is installed.

Reads manifests and installed versions; imports no plugin.
"""

from __future__ import annotations

from ekiben.contract.model import ModelSpec
from ekiben.errors import EngineNotInstalled
from ekiben.plugins.discovery import Plugins


def choose_variant(spec: ModelSpec, plugins: Plugins) -> int:
    """Index into `spec.variants`. Raises EngineNotInstalled, with the command that mends it."""
    engines = plugins.engines()
    for index, variant in enumerate(spec.variants):
        plugin = engines.get(variant.engine)
        if plugin is not None and not plugin.missing:
            return index
    raise EngineNotInstalled(_reason(spec, plugins))


def _reason(spec: ModelSpec, plugins: Plugins) -> str:
    """Why nothing runs, told by the variant that is easiest to mend: known engines before others."""
    engines = plugins.engines()
    wanted = list(dict.fromkeys(variant.engine for variant in spec.variants))
    engine = next((engine for engine in wanted if engine in engines), wanted[0])
    beginning = f"the model {spec.name!r} needs the engine {' or '.join(map(repr, wanted))}"
    if engine in engines:
        missing = ", ".join(engines[engine].missing)
        return (
            f"{beginning}, which is not installed (missing: {missing}): run `ekiben engine install {engine}`"
        )
    for broken in plugins.broken:
        if broken.id == engine:
            return f"{beginning}, which cannot be used: {broken.reason}"
    return f"{beginning}, and there is no such plugin here: install the package that brings it"
