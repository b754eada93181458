"""`ekiben model`: the catalog, through the running platform or straight on the home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ekiben.cli.client import model_path
from ekiben.cli.fit import format_fit
from ekiben.cli.output import (
    NONE,
    echo_fields,
    echo_json,
    echo_table,
    format_bytes,
    format_seconds,
    format_share,
    json_option,
)
from ekiben.cli.session import Session
from ekiben.errors import ConfigError

if TYPE_CHECKING:
    from ekiben.contract.model import ModelSpec
    from ekiben.plugins.discovery import Plugins


@click.group()
def model() -> None:
    """List, show, add and remove models.

    A model is an entry of the catalog: the name that clients send, and the way to run it. Some come with
    Ekiben; yours are added from a spec in YAML, or from weights that are on this machine.
    """


@model.command("ls")
@json_option
@click.pass_obj
def ls(session: Session, as_json: bool) -> None:
    """List all models, loaded or not."""
    from ekiben.plugins.discovery import discover

    plugins = discover()
    listing = _read(session, plugins)
    models = [complete(model, session.settings.home, plugins) for model in listing["models"]]
    if as_json:
        echo_json(models)
        return
    rows = [
        (
            m["name"],
            m["family"],
            " ".join(sorted(m["spec"]["abilities"])),
            m["state"],
            m["engine"],
            format_bytes(m["weights_bytes"]),
            m["origin"],
        )
        for m in models
    ]
    titles = ("NAME", "FAMILY", "ABILITIES", "STATE", "ENGINE", "WEIGHTS", "ORIGIN")
    echo_table(titles, rows, empty="no models")
    for broken in listing["broken"]:
        click.echo(f"{broken['name']} cannot be read: {broken['reason']}", err=True)


@model.command("show")
@click.argument("name", metavar="MODEL")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the spec alone, ready for `ekiben model add`.")
@json_option
@click.pass_obj
def show(session: Session, name: str, as_yaml: bool, as_json: bool) -> None:
    """Show one model: its spec, where its weights are, how it is, and whether it fits into memory now.

    Without a running platform nothing is said of memory.
    """
    from ekiben.cli.offline import find_model
    from ekiben.plugins.discovery import discover

    plugins = discover()
    found = find_model(session, name, plugins)
    if as_yaml:
        click.echo(_yaml(found["spec"]), nl=False)
        return
    found = complete(found, session.settings.home, plugins)
    platform = session.find_platform()
    found["fit"] = None if platform is None else platform.get(f"{model_path(name)}/fit")
    if as_json:
        echo_json(found)
    else:
        echo_fields(_fields(found))


@model.command("add")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FILE.yaml|PATH")
@click.option("--name", help="The name for weights given by PATH; by default made from the file's name.")
@click.option("--replace", is_flag=True, help="Take the place of a model that was added under that name.")
@json_option
@click.pass_obj
def add(session: Session, path: Path, name: str | None, replace: bool, as_json: bool) -> None:
    """Add a model from a spec in YAML, or from weights on this machine.

    PATH is a GGUF file, or a folder in the layout of Hugging Face: headers and config are read to fill
    the spec in. The weights stay where they are.
    """
    from ekiben.plugins.discovery import discover

    plugins = discover()
    added = _add(session, _specs_of(path, name, plugins), plugins, replace=replace)
    if as_json:
        echo_json(added)
        return
    for model in added:
        click.echo(f"added {model['name']}: try `ekiben run {model['name']}`")


def _add(
    session: Session, specs: list[ModelSpec], plugins: Plugins, *, replace: bool
) -> list[dict[str, Any]]:
    from ekiben.cli.offline import describe, hold_catalog

    platform = session.find_platform()
    if platform is not None:
        return [
            platform.call("POST", "/api/models", {"spec": spec.model_dump(mode="json"), "replace": replace})
            for spec in specs
        ]
    with hold_catalog(session.settings.home, plugins) as catalog:
        return [describe(catalog.add(spec, replace=replace)) for spec in specs]


@model.command("rm")
@click.argument("name", metavar="MODEL")
@click.option("--weights", "with_weights", is_flag=True, help="Remove what was fetched for it, too.")
@click.pass_obj
def rm(session: Session, name: str, with_weights: bool) -> None:
    """Remove a model that was added; a running one is stopped first."""
    from ekiben.catalog.catalog import BrokenEntry
    from ekiben.cli.offline import find_spec, hold_catalog
    from ekiben.plugins.discovery import discover

    plugins = discover()
    spec = find_spec(session, name, plugins) if with_weights else None
    platform = session.find_platform()
    if platform is not None:
        removed = platform.call("DELETE", model_path(name))["name"]
    else:
        with hold_catalog(session.settings.home, plugins) as catalog:
            entry = catalog.remove(name)
        removed = entry.name if isinstance(entry, BrokenEntry) else entry.spec.name
    click.echo(f"removed {removed}")
    if spec is not None:
        _remove_weights(spec, session.settings.home, plugins)


def _remove_weights(spec: ModelSpec, home: Path, plugins: Plugins) -> None:
    from ekiben.catalog.weights import WeightsStore

    store = WeightsStore(home, plugins)
    for variant in spec.variants:
        size = store.size_bytes(variant.source)
        store.remove(variant.source)
        if size is not None:
            click.echo(f"removed {format_bytes(size)} of {variant.format} weights")


def _specs_of(path: Path, name: str | None, plugins: Plugins) -> list[ModelSpec]:
    from ekiben.catalog.inspect import spec_from_path
    from ekiben.catalog.specs import SPEC_SUFFIXES, load_spec_files

    if path.is_file() and path.suffix.lower() in SPEC_SUFFIXES:
        if name is not None:
            raise ConfigError("--name is for weights given by their path: a spec holds its own name")
        return load_spec_files(path, plugins=plugins)
    return [spec_from_path(path.absolute(), plugins=plugins, name=name)]


def _read(session: Session, plugins: Plugins) -> dict[str, Any]:
    from ekiben.cli.offline import read_catalog

    platform = session.find_platform()
    listing: dict[str, Any] = (
        read_catalog(session.settings.home, plugins) if platform is None else platform.get("/api/models")
    )
    return listing


def complete(model: dict[str, Any], home: Path, plugins: Plugins) -> dict[str, Any]:
    """The model with what this machine knows of it: the engine that would run it, and its weights."""
    from ekiben.catalog.weights import WeightsStore
    from ekiben.cli.offline import chosen_variant
    from ekiben.contract.model import ModelSpec

    spec = ModelSpec.model_validate(model["spec"])
    index, obstacle = chosen_variant(spec, plugins)
    variant = spec.variants[index]
    store = WeightsStore(home, plugins)
    path = store.local_path(variant.source)
    return model | {
        "engine": variant.engine,
        "obstacle": obstacle,
        "weights": str(path) if path else None,
        "weights_bytes": store.size_bytes(variant.source),
    }


def _fields(m: dict[str, Any]) -> list[tuple[str, str]]:
    spec = m["spec"]
    weights = f"{m['weights']} ({format_bytes(m['weights_bytes'])})" if m["weights"] else "not here yet"
    fields = [
        ("name", m["name"]),
        ("aliases", ", ".join(spec["aliases"])),
        ("description", spec["description"]),
        ("license", spec["license"] or ""),
        ("family", m["family"]),
        ("abilities", ", ".join(sorted(spec["abilities"]))),
        ("origin", m["origin"]),
        ("state", m["state"] + ("" if m["state"] in ("cold", "ready") else f" ({m['stage']})")),
        ("progress", format_share(m["progress"]) if m.get("progress") is not None else ""),
        ("error", m.get("error") or ""),
        ("engine", m["engine"]),
        ("weights", weights),
        ("memory", format_bytes(m["memory_bytes"]) if m.get("memory_bytes") else ""),
        ("fits", format_fit(m["fit"]) if m["fit"] else ""),
        ("unloads in", format_seconds(m["unloads_in_s"]) if m.get("unloads_in_s") is not None else ""),
        ("keep alive", spec["keep_alive"]),
        ("cannot run", m["problem"] or m["obstacle"] or ""),
    ]
    variants = [
        (
            f"variant {index}",
            f"{v['format']} {v['quantization'] or NONE}, {v['engine']}, {_source(v['source'])}",
        )
        for index, v in enumerate(spec["variants"], 1)
    ]
    return fields + variants


def _source(source: dict[str, Any]) -> str:
    parameters = {
        name: value for name, value in source.items() if name != "kind" and isinstance(value, (str, int))
    }
    return " ".join([source["kind"], *(f"{name}={json.dumps(value)}" for name, value in parameters.items())])


def _yaml(spec: dict[str, Any]) -> str:
    import yaml

    kept = {name: value for name, value in spec.items() if value not in (None, "", [], {})}
    kept["variants"] = [
        {name: value for name, value in variant.items() if value not in (None, {})}
        for variant in spec["variants"]
    ]
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
