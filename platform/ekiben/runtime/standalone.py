"""A Bento that is served alone: which model it serves, and how its weights get here.

The model is named by the environment or by an argument of `bentoml serve`; here it is looked up, an
engine is chosen for it and its weights are fetched. A Bento in the hands of the platform needs none
of this: its order says everything.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ekiben.catalog.parcel import Parcel, fetch_parcel
from ekiben.catalog.selection import Selection
from ekiben.catalog.specs import builtin_specs, resolve_model
from ekiben.catalog.weights import WeightsStore
from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.model import Family, ModelSpec
from ekiben.contract.source import FetchProgress
from ekiben.errors import ConfigError, EngineNotInstalled
from ekiben.plugins.discovery import Plugins, discover
from ekiben.runtime.host import Assignment
from ekiben.runtime.protocol import Report, Stage
from ekiben.settings import StandaloneSettings, load_standalone_settings

logger = logging.getLogger(__name__)

_PAUSE_S: Final = 2.0
"""Between two lines about a fetch."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to serve and the variant that runs here."""

    model: ModelSpec
    variant: int
    plugins: Plugins
    settings: StandaloneSettings


def choose(family: Family, *, argument: str | None) -> Choice:
    """The model that `EKIBEN_MODEL`, or else `--arg model=…`, names. Raises EkibenError."""
    settings = load_standalone_settings()
    plugins = discover()
    name = settings.model or argument
    if name is None:
        raise ConfigError(
            "no model is given: set EKIBEN_MODEL, or add `--arg model=NAME`, with a model of the catalog "
            f"({_names(family, plugins)}), the path of a model spec, or the path of weights"
        )
    model = resolve_model(name, plugins=plugins)
    if model.family is not family:
        raise ConfigError(
            f"the model {model.name!r} is of the family {model.family.value!r} and this Bento serves "
            f"{family.value!r}: serve it with the {model.family.value!r} Bento, "
            f"or choose another model ({_names(family, plugins)})"
        )
    try:
        variant = _select(model, plugins, settings)
    except EngineNotInstalled as error:
        raise _elsewhere(model, settings) or error from None
    return Choice(model, variant, plugins, settings)


def _select(model: ModelSpec, plugins: Plugins, settings: StandaloneSettings) -> int:
    selection = Selection(plugins, WeightsStore(settings.home, plugins), device=settings.device)
    return selection.choose(model)


def _elsewhere(model: ModelSpec, settings: StandaloneSettings) -> ConfigError | None:
    """What to say when the engine is installed, but not in the interpreter that serves the Bento."""
    plugins = discover(settings.home)
    try:
        engine = model.variants[_select(model, plugins, settings)].engine
    except EngineNotInstalled:
        return None
    bentoml = plugins.interpreter(engine).python.with_name("bentoml")
    return ConfigError(
        f"the engine {engine!r} lives in an environment of its own: serve the Bento with `{bentoml} serve`"
    )


async def fetch(choice: Choice) -> Parcel:
    """All that is loaded, brought here when it is not; tells the log how far it is. Raises FetchFailed."""
    store = WeightsStore(choice.settings.home, choice.plugins)
    variant = choice.model.variants[choice.variant]
    return await fetch_parcel(variant, store, report=_fetch_lines(choice.model.name))


def assignment_for(choice: Choice, parcel: Parcel, *, scratch: Path) -> Assignment:
    """What the settings say of where to run."""
    return Assignment(
        model=choice.model,
        variant=choice.variant,
        weights=parcel.weights,
        companions=parcel.companions,
        adapters=parcel.adapters,
        device=choice.settings.device,
        threads=choice.settings.threads or len(os.sched_getaffinity(0)),
        scratch=scratch,
    )


async def assign(family: Family, *, argument: str | None) -> Assignment:
    """All of it: the model, its weights, and where it runs. Raises EkibenError."""
    choice = choose(family, argument=argument)
    parcel = await fetch(choice)
    return assignment_for(choice, parcel, scratch=Path(tempfile.mkdtemp(prefix="ekiben-")))


def log_report(report: Report) -> None:
    """News of a load, for people who watch the log of `bentoml serve`."""
    if report.stage is Stage.LOADING and report.memory_bytes is not None:
        logger.info("loading; about %d MB of memory will be used", report.memory_bytes // 10**6)
    elif report.stage is Stage.LOADING and report.progress is not None:
        logger.debug("loading: %d %%", round(report.progress * 100))


def _fetch_lines(name: str) -> Callable[[FetchProgress], None]:
    next_line_s = SYSTEM_CLOCK.monotonic()

    def report(progress: FetchProgress) -> None:
        nonlocal next_line_s
        if SYSTEM_CLOCK.monotonic() < next_line_s:
            return
        next_line_s = SYSTEM_CLOCK.monotonic() + _PAUSE_S
        total = f" of {progress.total_bytes / 1e6:.0f}" if progress.total_bytes else ""
        logger.info("fetching the weights of %s: %.0f%s MB", name, progress.done_bytes / 1e6, total)

    return report


def _names(family: Family, plugins: Plugins) -> str:
    names = [spec.name for spec in builtin_specs(plugins) if spec.family is family]
    return ", ".join(names) or "the catalog has none of this family"
