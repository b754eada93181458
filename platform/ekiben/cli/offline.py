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


def chosen_variant(spec: ModelSpec, plugins: Plugins) -> tuple[int, str | None]:
    """The variant that would run, and what is in the way; the first one when none can."""
    from ekiben.catalog.choice import choose_variant

    try:
        return choose_variant(spec, plugins), None
    except EngineNotInstalled as error:
        return 0, error.message
