"""The home without a platform: its catalog and its weights, read and changed by this process itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ekiben.cli.session import Session, hold
from ekiben.contract.model import ModelSpec
from ekiben.errors import EngineNotInstalled

if TYPE_CHECKING:
    from ekiben.catalog.catalog import Catalog, Entry
    from ekiben.plugins.discovery import Plugins
    from ekiben.settings import Settings

DATABASE: Final = "ekiben.db"


@contextmanager
def open_catalog(home: Path, plugins: Plugins) -> Iterator[Catalog]:
    """The catalog of this home, for reading: a home that is not there is not made. Raises ConfigError."""
    from ekiben.catalog.catalog import Catalog
    from ekiben.store.database import Database, sqlite_url

    path = home / DATABASE
    database = Database.open(sqlite_url(path) if path.exists() else "sqlite://")
    try:
        yield Catalog(database, plugins)
    finally:
        database.close()


@contextmanager
def hold_catalog(home: Path, plugins: Plugins) -> Iterator[Catalog]:
    """The same, for changing: the home is made, and no platform can start on it. Raises EkibenError."""
    from ekiben.catalog.catalog import Catalog
    from ekiben.store.database import Database, sqlite_url

    with hold(home):
        database = Database.open(sqlite_url(home / DATABASE))
        try:
            yield Catalog(database, plugins)
        finally:
            database.close()


def read_catalog(home: Path, plugins: Plugins) -> dict[str, Any]:
    """What `GET /api/models` of a platform would say with nothing loaded."""
    with open_catalog(home, plugins) as catalog:
        return {
            "models": [describe(entry) for entry in catalog.entries()],
            "broken": [{"name": broken.name, "reason": broken.reason} for broken in catalog.broken()],
        }


def find_model(session: Session, name: str, plugins: Plugins) -> dict[str, Any]:
    """One model by name or alias, from the platform or from the home. Raises ModelNotFound."""
    from ekiben.cli.client import model_path

    platform = session.find_platform()
    if platform is not None:
        found: dict[str, Any] = platform.get(model_path(name))
        return found
    with open_catalog(session.settings.home, plugins) as catalog:
        return describe(catalog.get(name))


def find_spec(session: Session, name: str, plugins: Plugins) -> ModelSpec:
    """The spec of `find_model`."""
    return ModelSpec.model_validate(find_model(session, name, plugins)["spec"])


def describe(entry: Entry) -> dict[str, Any]:
    """A model that is not loaded, with the fields of a platform's answer that make sense for it."""
    spec = entry.spec
    return {
        "name": spec.name,
        "family": spec.family.value,
        "state": "cold",
        "stage": "not loaded",
        "abilities": sorted(spec.abilities),
        "aliases": list(spec.aliases),
        "origin": entry.origin.value,
        "problem": entry.problem,
        "created_at": entry.created_at.isoformat(),
        "spec": spec.model_dump(mode="json"),
    }


def chosen_variant(
    model: dict[str, Any], settings: Settings, plugins: Plugins
) -> tuple[int, str | None, dict[str, Any]]:
    """The variant that would run, the first one when none can; what is in the way; and the choice, told.

    A platform has told its own; without one, this machine is looked at here.
    """
    from ekiben.catalog.choice import as_json
    from ekiben.catalog.selection import Selection
    from ekiben.catalog.weights import WeightsStore

    budgets: dict[str, int] = {} if "choice" in model else _budgets(settings)
    selection = Selection(
        plugins,
        WeightsStore(settings.home, plugins),
        device=settings.device,
        budgets=lambda: budgets,
    )
    spec = ModelSpec.model_validate(model["spec"])
    choice = model.get("choice") or as_json(selection.explain(spec))
    if choice["variant"] is not None:
        return choice["variant"], None, choice
    try:
        return selection.choose(spec), None, choice
    except EngineNotInstalled as error:
        return 0, error.message, choice


def _budgets(settings: Settings) -> dict[str, int]:
    """What a platform that started now could hold."""
    from ekiben.fleet.memory.allowance import parse_allowance
    from ekiben.fleet.memory.budgets import Budgets
    from ekiben.plugins.gpus import gpu_readers
    from ekiben.settings import process_environment

    visible = process_environment().get("CUDA_VISIBLE_DEVICES")
    return Budgets(parse_allowance(settings.memory), gpus=gpu_readers(visible=visible)).now()
