"""`ekiben engine`: which engines there are, whether they work, and how to get them."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from ekiben.cli.output import echo_json, echo_table, json_option
from ekiben.errors import EkibenError, NotFound

if TYPE_CHECKING:
    from ekiben.plugins.discovery import Plugin, Plugins
    from ekiben.plugins.doctor import Finding


@click.group()
def engine() -> None:
    """List, install and check engines.

    An engine is a plugin that runs models. What it needs is installed once, by `ekiben engine install`;
    no request ever installs anything.
    """


@engine.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the engines, what they can do, and what they lack. Nothing of them is imported."""
    from ekiben.plugins.discovery import discover

    plugins = discover()
    engines = [_describe(plugin) for plugin in plugins.engines().values()] + _broken(plugins)
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
            e["reason"] or "",
        )
        for e in engines
    ]
    titles = ("ENGINE", "STATUS", "VERSION", "ABILITIES", "FORMATS", "DEVICES", "FROM", "REASON")
    echo_table(titles, rows, empty="no engines: install ekiben again")


def _describe(plugin: Plugin) -> dict[str, Any]:
    manifest = plugin.manifest
    section = manifest.engine
    assert section is not None
    missing = plugin.missing
    reason = f"missing {', '.join(missing)}: ekiben engine install {manifest.id}" if missing else None
    return {
        "id": manifest.id,
        "name": manifest.name,
        "summary": manifest.summary,
        "version": plugin.version,
        "distribution": plugin.distribution,
        "status": "missing" if missing else "ready",
        "installed": not missing,
        "families": [family.value for family in section.families],
        "abilities": [ability.value for ability in section.abilities],
        "formats": list(section.formats),
        "devices": list(section.devices),
        "requires": list(manifest.requires),
        "missing": missing,
        "reason": reason,
    }


def _broken(plugins: Plugins) -> list[dict[str, Any]]:
    """Plugins whose manifest is not in order; whether they are engines cannot always be told."""
    empty: dict[str, Any] = {name: [] for name in ("families", "abilities", "formats", "devices", "missing")}
    return [
        {"id": b.id, "name": b.id, "summary": "", "version": None, "distribution": b.distribution}
        | {"status": "broken", "installed": False, "requires": [], "reason": b.reason}
        | empty
        for b in plugins.broken
    ]


@engine.command("install")
@click.argument("name", metavar="ENGINE")
@click.option("--dry-run", is_flag=True, help="Show what pip would install, and install nothing.")
def install_command(name: str, dry_run: bool) -> None:
    """Install what an engine, or a source, needs, with pip, into the interpreter that runs Ekiben.

    pip's own configuration is honoured: mirrors, proxies, PIP_CONSTRAINT.
    """
    from ekiben.plugins.discovery import discover
    from ekiben.plugins.doctor import examine
    from ekiben.plugins.install import install, pip_command
    from ekiben.settings import process_environment

    plugin = _find(discover(), name)
    if not plugin.missing:
        click.echo(f"{name} has all it needs: {', '.join(plugin.manifest.requires) or 'nothing'}")
        return
    click.echo(shlex.join(pip_command(plugin, dry_run=dry_run)))
    report = None if sys.stdout.isatty() else click.echo
    install(plugin, environment=process_environment(), report=report, dry_run=dry_run)
    if dry_run:
        return
    findings = examine(discover(), [name])
    if not any(finding.ready for finding in findings):
        raise EkibenError(f"{name} is installed and still not ready: {findings[0].problem}")
    click.echo(f"{name} is ready")


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
def doctor(name: str | None, deadline_s: float, as_json: bool) -> None:
    """Try out one plugin, or all: each is imported, in a process of its own.

    Says for each that is not ready why, and the command that mends it. Exit code 1 when the ENGINE asked
    for is not ready or, without one, when a plugin is broken; one that lacks only its libraries is not.
    """
    from ekiben.plugins.discovery import discover
    from ekiben.plugins.doctor import examine

    plugins = discover()
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
    return "missing" if plugin is not None and owns and plugin.missing else "broken"


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


def _find(plugins: Plugins, name: str) -> Plugin:
    if name in plugins.usable:
        return plugins.usable[name]
    for broken in plugins.broken:
        if broken.id == name:
            raise EkibenError(f"{name!r} cannot be used: {broken.reason}")
    raise _unknown(plugins, name)


def _unknown(plugins: Plugins, name: str) -> NotFound:
    return NotFound(f"there is no plugin {name!r} here (known: {', '.join(_ids(plugins))})")
