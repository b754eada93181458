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
    from ekiben.settings import Settings


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

    plugins = discover(session.settings.home)
    listing = _read(session, plugins)
    models = [complete(model, session.settings, plugins) for model in listing["models"]]
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

    plugins = discover(session.settings.home)
    found = find_model(session, name, plugins)
    if as_yaml:
        click.echo(_yaml(found["spec"]), nl=False)
        return
    found = complete(found, session.settings, plugins)
    platform = session.find_platform()
    found["fit"] = None if platform is None else platform.get(f"{model_path(name)}/fit")
    if as_json:
        echo_json(found)
    else:
        echo_fields(_fields(found))


@model.command("add")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FILE.yaml|PATH")
@click.option("--name", help="The name for weights given by PATH; by default made from the file's name.")
@click.option("--replace", is_flag=True, help="Take the place of what has that name.")
@click.option("--adapter-of", "base", metavar="MODEL", help="PATH is a LoRA adapter of that model.")
@json_option
@click.pass_obj
def add(
    session: Session, path: Path, name: str | None, replace: bool, base: str | None, as_json: bool
) -> None:
    """Add a model from a spec in YAML, or from weights on this machine.

    PATH is a GGUF file, or a folder in the layout of Hugging Face: headers and config are read to fill
    the spec in. The weights stay where they are.

    With --adapter-of, PATH is a PEFT folder or a GGUF file with a LoRA adapter. It is served by the
    replicas of its base, under the name `MODEL:NAME`.
    """
    from ekiben.plugins.discovery import discover

    plugins = discover(session.settings.home)
    if base is not None:
        _add_adapter(session, path.absolute(), base, name, plugins, replace=replace, as_json=as_json)
        return
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


def _add_adapter(
    session: Session,
    path: Path,
    base: str,
    name: str | None,
    plugins: Plugins,
    *,
    replace: bool,
    as_json: bool,
) -> None:
    from ekiben.catalog.adapters import adapter_name, look_at_adapter, with_adapter
    from ekiben.cli.offline import describe, hold_catalog

    adapter, own_name = look_at_adapter(path), name or adapter_name(path)
    platform = session.find_platform()
    if platform is not None:
        body = {"path": str(path), "adapter_of": base, "name": own_name, "replace": replace}
        added: dict[str, Any] = platform.call("POST", "/api/models", body)
    else:
        with hold_catalog(session.settings.home, plugins) as catalog:
            entry = catalog.amend(
                base, lambda spec: with_adapter(spec, own_name, adapter, plugins=plugins, replace=replace)
            )
        added = describe(entry)
    if as_json:
        echo_json([added])
        return
    made_for = f" (made for {adapter.made_for})" if adapter.made_for else ""
    click.echo(f"added {added['name']}:{own_name}{made_for}")


@model.command("rm")
@click.argument("name", metavar="MODEL")
@click.option("--weights", "with_weights", is_flag=True, help="Remove what was fetched for it, too.")
@click.pass_obj
def rm(session: Session, name: str, with_weights: bool) -> None:
    """Remove a model that was added, or an adapter (`MODEL:NAME`); a running model is stopped first.

    A built-in model whose place it took is there again.
    """
    from ekiben.cli.offline import find_spec
    from ekiben.plugins.discovery import discover

    plugins = discover(session.settings.home)
    spec = find_spec(session, name, plugins) if with_weights else None
    platform = session.find_platform()
    if platform is not None:
        removed = platform.call("DELETE", model_path(name))["name"]
    else:
        removed = _remove_offline(session.settings.home, name, plugins)
    click.echo(f"removed {removed}")
    if spec is not None:
        _remove_weights(session, spec, plugins)


def _remove_offline(home: Path, name: str, plugins: Plugins) -> str:
    from ekiben.catalog.adapters import without_adapter
    from ekiben.catalog.catalog import BrokenEntry
    from ekiben.cli.offline import hold_catalog

    with hold_catalog(home, plugins) as catalog:
        known = all(broken.name != name for broken in catalog.broken())
        base = catalog.get(name).spec if known else None
        adapter = base.adapter_of(name) if base is not None else None
        if base is not None and adapter is not None:
            catalog.amend(base.name, lambda spec: without_adapter(spec, adapter))
            return name
        entry = catalog.remove(name)
    return entry.name if isinstance(entry, BrokenEntry) else entry.spec.name


def _remove_weights(session: Session, spec: ModelSpec, plugins: Plugins) -> None:
    """What was fetched for a spec that has gone, and what no model that is still there needs."""
    from ekiben.catalog.parcel import sources_of
    from ekiben.catalog.shelf import source_key
    from ekiben.catalog.weights import WeightsStore
    from ekiben.contract.model import ModelSpec

    store = WeightsStore(session.settings.home, plugins)
    others = [ModelSpec.model_validate(model["spec"]) for model in _read(session, plugins)["models"]]
    needed = {
        source_key(source) for other in others for variant in other.variants for source in sources_of(variant)
    }
    for variant in spec.variants:
        for source in sources_of(variant):
            if source_key(source) in needed:
                continue
            size = store.size_bytes(source)
            store.remove(source)
            if size is not None:
                what = f"{variant.format} weights" if source is variant.source else "what went with them"
                click.echo(f"removed {format_bytes(size)} of {what}")


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


def complete(model: dict[str, Any], settings: Settings, plugins: Plugins) -> dict[str, Any]:
    """The model with what this machine knows of it: the engine that would run it, and its weights."""
    from ekiben.catalog.weights import WeightsStore
    from ekiben.cli.offline import chosen_variant
    from ekiben.contract.model import ModelSpec

    spec = ModelSpec.model_validate(model["spec"])
    index, obstacle, choice = chosen_variant(model, settings, plugins)
    variant = spec.variants[index]
    store = WeightsStore(settings.home, plugins)
    path = store.local_path(variant.source)
    extras = {
        kind: {name: _shown_path(store.local_path(source)) for name, source in sources.items()}
        for kind, sources in (("companions", variant.companions), ("adapters", variant.adapters))
    }
    return (
        model
        | extras
        | {
            "choice": choice,
            "engine": variant.engine,
            "obstacle": obstacle,
            "weights": _shown_path(path),
            "weights_bytes": store.size_bytes(variant.source),
        }
    )


def _shown_path(path: Path | None) -> str | None:
    return None if path is None else str(path)


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
        *((f"companion {name}", path or "not here yet") for name, path in m["companions"].items()),
        *((f"adapter {name}", path or "not here yet") for name, path in m["adapters"].items()),
        ("memory", format_bytes(m["memory_bytes"]) if m.get("memory_bytes") else ""),
        ("fits", format_fit(m["fit"]) if m["fit"] else ""),
        ("unloads in", format_seconds(m["unloads_in_s"]) if m.get("unloads_in_s") is not None else ""),
        ("keep alive", spec["keep_alive"]),
        ("cannot run", m["problem"] or m["obstacle"] or ""),
    ]
    return fields + [
        line
        for index, (variant, verdict) in enumerate(
            zip(spec["variants"], m["choice"]["variants"], strict=True), 1
        )
        for line in _variant_fields(index, variant, verdict)
    ]


def _variant_fields(index: int, variant: dict[str, Any], verdict: dict[str, Any]) -> list[tuple[str, str]]:
    what = f"{variant['format']} {variant['quantization'] or NONE}, {variant['engine']}"
    why = "chosen" if verdict["chosen"] else "not chosen"
    return [
        (f"variant {index}", f"{what}, {_source(variant['source'])}"),
        ("", f"{why}: {verdict['reason']}"),
    ]


def _source(source: dict[str, Any]) -> str:
    parameters = {
        name: value for name, value in source.items() if name != "kind" and isinstance(value, (str, int))
    }
    return " ".join([source["kind"], *(f"{name}={json.dumps(value)}" for name, value in parameters.items())])


def _yaml(spec: dict[str, Any]) -> str:
    import yaml

    kept = {name: value for name, value in spec.items() if value not in (None, "", [], {})}
    if not any(kept.get("prefer", {}).values()):
        kept.pop("prefer", None)
    kept["variants"] = [
        {name: value for name, value in variant.items() if value not in (None, {})}
        for variant in spec["variants"]
    ]
    return str(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
