"""`ekiben engine`: which engines there are, whether they work, and how to get them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ekiben.cli.output import echo_fields, echo_json, echo_table, json_option
from ekiben.cli.session import Session
from ekiben.errors import EkibenError, NotFound

if TYPE_CHECKING:
    from ekiben.plugins.discovery import Plugin, Plugins
    from ekiben.plugins.doctor import Finding
    from ekiben.plugins.environments import Standing


@click.group()
def engine() -> None:
    """List, install and check engines.

    An engine is a plugin that runs models. What it needs is installed once, by `ekiben engine install`;
    no request ever installs anything.
    """


@engine.command("ls")
@json_option
@click.pass_obj
def ls(session: Session, as_json: bool) -> None:
    """List the engines: what they can do, where they live, what they lack. Nothing of them is imported."""
    from ekiben.plugins.discovery import discover

    plugins = discover(session.settings.home)
    engines = [_describe(plugin, plugins) for plugin in plugins.engines().values()] + _broken(plugins)
    if as_json:
        echo_json(engines)
        return
    rows = [
        (
            e["id"],
            e["status"],
            e["version"] or "",
            " ".join(e["abilities"]),
            " ".join(e["formats"]),
            " ".join(e["devices"]),
            e["distribution"],
            _where(e),
            e["reason"] or "",
        )
        for e in engines
    ]
    titles = ("ENGINE", "STATUS", "VERSION", "ABILITIES", "FORMATS", "DEVICES", "FROM", "LIVES", "REASON")
    echo_table(titles, rows, empty="no engines: install ekiben again")


def _where(described: dict[str, Any]) -> str:
    environment = described["environment"]
    if environment is not None:
        return str(environment["folder"])
    return "here" if described["installed"] else ""


def _describe(plugin: Plugin, plugins: Plugins) -> dict[str, Any]:
    manifest, standing = plugin.manifest, plugins.standing(plugin)
    section = manifest.engine
    assert section is not None
    reason = None if standing.ready else f"{standing.problem}: ekiben engine install {manifest.id}"
    return {
        "id": manifest.id,
        "name": manifest.name,
        "summary": manifest.summary,
        "version": plugin.version,
        "distribution": plugin.distribution,
        "status": "ready" if standing.ready else "missing",
        "installed": standing.ready,
        "families": [family.value for family in section.families],
        "abilities": [ability.value for ability in section.abilities],
        "formats": list(section.formats),
        "devices": list(section.devices),
        "requires": list(manifest.requirements(plugins.environments.best_kind(manifest))),
        "missing": list(standing.missing),
        "interpreter": str(standing.interpreter.python),
        "environment": _environment(standing),
        "reason": reason,
    }


def _environment(standing: Standing) -> dict[str, Any] | None:
    """Its own, if it has one."""
    if standing.folder is None:
        return None
    noted = {} if standing.note is None else standing.note.model_dump(mode="json")
    return {"folder": str(standing.folder)} | {
        name: noted.get(name) for name in ("device", "ekiben", "python", "tool", "made_at")
    }


def _broken(plugins: Plugins) -> list[dict[str, Any]]:
    """Plugins whose manifest is not in order; whether they are engines cannot always be told."""
    empty: dict[str, Any] = {name: [] for name in ("families", "abilities", "formats", "devices", "missing")}
    return [
        {"id": b.id, "name": b.id, "summary": "", "version": None, "distribution": b.distribution}
        | {"status": "broken", "installed": False, "requires": [], "reason": b.reason}
        | {"interpreter": None, "environment": None}
        | empty
        for b in plugins.broken
    ]


@engine.command("show")
@click.argument("name", metavar="ENGINE")
@json_option
@click.pass_obj
def show(session: Session, name: str, as_json: bool) -> None:
    """Show one engine, the environment that it lives in, and the versions that are installed there."""
    from ekiben.plugins.discovery import discover

    plugins = discover(session.settings.home)
    plugin = find_plugin(plugins, name)
    if plugin.manifest.engine is None:
        raise NotFound(f"{name!r} is a {plugin.manifest.kind.value}, not an engine")
    found = _describe(plugin, plugins) | {"packages": dict(plugins.standing(plugin).packages)}
    if as_json:
        echo_json(found)
        return
    echo_fields(_fields(found))
    for package, version in found["packages"].items():
        click.echo(f"  {package}=={version}")


def _fields(found: dict[str, Any]) -> list[tuple[str, str]]:
    names = ("id", "name", "summary", "version", "distribution", "status", "interpreter", "reason")
    lists = ("families", "abilities", "formats", "devices", "requires")
    environment = {f"environment {k}": str(v) for k, v in (found["environment"] or {}).items() if v}
    return [
        *((name, str(found[name] or "")) for name in names),
        *((name, ", ".join(found[name])) for name in lists),
        *environment.items(),
    ]


_CONSTRAINT = click.option(
    "--constraint",
    "constraints",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    metavar="FILE",
    help="A file of versions to keep to, as for pip; may be given several times.",
)
_WHEELS = click.option(
    "--wheels",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    metavar="FOLDER",
    help="Take everything from this folder of wheels, and nothing from an index.",
)


@engine.command("install")
@click.argument("name", metavar="ENGINE")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "rocm", "metal"]),
    help="The kind of device to install for; by default the best that this machine has.",
)
@click.option("--here", is_flag=True, help="Install into the interpreter that runs Ekiben, with pip.")
@click.option("--rebuild", is_flag=True, help="Build an environment anew, also where nothing is missing.")
@_CONSTRAINT
@_WHEELS
@click.option("--dry-run", is_flag=True, help="Show what would be installed, and install nothing.")
@click.pass_obj
def install_command(session: Session, /, name: str, **options: Any) -> None:
    """Build an engine's own environment, unless the interpreter that runs Ekiben has all that it needs.

    Done by uv where it is present, by pip otherwise. pip's own configuration is honoured: mirrors,
    proxies, PIP_CONSTRAINT. What a source needs goes into the interpreter that runs Ekiben.
    """
    from ekiben.cli.engine_install import Request, run

    run(session.settings.home, Request(name=name, **options))


@engine.command("rm")
@click.argument("name", metavar="ENGINE")
@click.pass_obj
def rm(session: Session, name: str) -> None:
    """Remove an engine's own environment. Refused while its models run."""
    from ekiben.plugins.construction import remove
    from ekiben.plugins.discovery import discover

    plugins = discover(session.settings.home)
    plugin = find_plugin(plugins, name)
    folder = plugins.environments.folder(name)
    if folder is None or not folder.is_dir():
        raise NotFound(f"{plugin.manifest.id!r} has no environment of its own")
    platform = session.find_platform()
    listed = platform.get("/api/replicas")["zygotes"] if platform is not None else ()
    remove(folder, spared=frozenset(int(zygote["pid"]) for zygote in listed))
    click.echo(f"removed {folder}")


@engine.command("doctor")
@click.argument("name", required=False, metavar="[ENGINE]")
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one plugin may take to import.",
)
@json_option
@click.pass_obj
def doctor(session: Session, name: str | None, deadline_s: float, as_json: bool) -> None:
    """Try out one plugin, or all: each is imported, in a process of its own, where it lives.

    Says for each that is not ready why, and the command that mends it. Exit code 1 when the ENGINE asked
    for is not ready or, without one, when a plugin is broken; one that lacks only its libraries is not.
    """
    from ekiben.plugins.discovery import discover
    from ekiben.plugins.doctor import examine

    plugins = discover(session.settings.home)
    if name is not None and name not in _ids(plugins):
        raise _unknown(plugins, name)
    findings = examine(plugins, None if name is None else [name], deadline_s=deadline_s)
    if as_json:
        echo_json([_as_json(finding, plugins) for finding in findings])
    else:
        _echo(findings, plugins)
    if name is None:
        in_order = all(_status(finding, plugins) != "broken" for finding in findings)
    else:
        in_order = any(finding.ready for finding in findings)
    if not in_order:
        raise click.exceptions.Exit(1)


def _status(finding: Finding, plugins: Plugins) -> str:
    if finding.ready:
        return "ready"
    plugin = plugins.usable.get(finding.id)
    owns = plugin is not None and plugin.distribution == finding.distribution
    return "missing" if plugin is not None and owns and not plugins.standing(plugin).ready else "broken"


def _as_json(finding: Finding, plugins: Plugins) -> dict[str, Any]:
    return {
        "id": finding.id,
        "kind": finding.kind or None,
        "distribution": finding.distribution,
        "status": _status(finding, plugins),
        "ready": finding.ready,
        "problem": finding.problem,
        "fix": finding.fix,
    }


def _echo(findings: list[Finding], plugins: Plugins) -> None:
    width = max((len(finding.id) for finding in findings), default=0)
    for finding in findings:
        line = f"{finding.id.ljust(width)}  {_status(finding, plugins)}"
        click.echo(f"{line}: {finding.problem}" if finding.problem else line)
        if finding.fix:
            click.echo(f"{' ' * width}  mend it with: {finding.fix}")


def _ids(plugins: Plugins) -> list[str]:
    return sorted({*plugins.usable, *(broken.id for broken in plugins.broken)})


def find_plugin(plugins: Plugins, name: str) -> Plugin:
    if name in plugins.usable:
        return plugins.usable[name]
    for broken in plugins.broken:
        if broken.id == name:
            raise EkibenError(f"{name!r} cannot be used: {broken.reason}")
    raise _unknown(plugins, name)


def _unknown(plugins: Plugins, name: str) -> NotFound:
    return NotFound(f"there is no plugin {name!r} here (known: {', '.join(_ids(plugins))})")
