"""`ekiben engine install`: into an environment of the engine's own, or into this interpreter."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ekiben.contract.manifest import PluginKind
from ekiben.errors import ConfigError, EkibenError
from ekiben.plugins.construction import Blueprint, Builder, relink
from ekiben.plugins.discovery import Plugin, Plugins, discover
from ekiben.plugins.doctor import examine, try_out
from ekiben.plugins.environments import Interpreter
from ekiben.plugins.installers import Wishes, pip_installer, uv_installer
from ekiben.settings import process_environment

if TYPE_CHECKING:
    from ekiben.plugins.environments import Standing
    from ekiben.plugins.installers import Installer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user says."""

    name: str
    device: str | None
    here: bool
    rebuild: bool
    constraints: tuple[Path, ...]
    wheels: Path | None
    dry_run: bool

    @property
    def wishes(self) -> Wishes:
        return Wishes(constraints=self.constraints, wheels=self.wheels)


def run(home: Path, request: Request) -> None:
    """Install what is asked for, and try it out. Raises EkibenError."""
    from ekiben.cli.engine import find_plugin

    plugins = discover(home)
    plugin = find_plugin(plugins, request.name)
    device = _device(plugin, plugins, request.device)
    standing = plugins.standing(plugin)
    if not request.rebuild and _suffices(standing, request):
        has = ", ".join(plugin.manifest.requirements(device)) or "nothing"
        where = f" in {standing.folder}" if standing.folder is not None else ""
        click.echo(f"{request.name} has all it needs{where}: {has}")
        return
    if request.here or device is None:
        _install_here(plugin, device, request)
    elif not (request.rebuild or request.dry_run) and _relink(plugin, standing):
        click.echo(f"its environment {standing.folder} has links to this platform now")
    else:
        _build(plugin, device, plugins, request)
        return
    if request.dry_run:
        return
    findings = examine(discover(home), [request.name])
    if not any(finding.ready for finding in findings):
        raise EkibenError(f"{request.name} is installed and still not ready: {findings[0].problem}")
    click.echo(f"{request.name} is ready")


def _suffices(standing: Standing, request: Request) -> bool:
    return standing.ready and (request.device is None or request.device in standing.kinds)


def _relink(plugin: Plugin, standing: Standing) -> bool:
    """Whether that was all that an environment needed."""
    if not standing.outdated or standing.missing or standing.folder is None or standing.note is None:
        return False
    relink(standing.folder, standing.note, plugin)
    return True


def _device(plugin: Plugin, plugins: Plugins, asked: str | None) -> str | None:
    """The kind of device to install for; None for what runs on none. Raises ConfigError."""
    manifest = plugin.manifest
    if asked is None:
        return plugins.environments.best_kind(manifest)
    if manifest.kind is not PluginKind.ENGINE or manifest.engine is None:
        raise ConfigError(f"{manifest.id!r} is a {manifest.kind.value} and runs on no device")
    if asked not in manifest.engine.devices:
        raise ConfigError(f"{manifest.id!r} runs on {', '.join(manifest.engine.devices)}, not on {asked!r}")
    return asked


def _install_here(plugin: Plugin, device: str | None, request: Request) -> None:
    # All requirements are named, so that pip fits them to one another.
    requirements = plugin.manifest.requirements(device)
    pip_installer(process_environment()).install(
        Path(sys.executable),
        requirements,
        what=" ".join(requirements),
        wishes=request.wishes,
        extra=("--dry-run",) if request.dry_run else (),
        report=None if sys.stdout.isatty() else click.echo,
    )


def _build(plugin: Plugin, device: str, plugins: Plugins, request: Request) -> None:
    folder = plugins.environments.folder(plugin.manifest.id)
    assert folder is not None, "the plugins were discovered with a home"

    def judge(python: Path) -> str | None:
        return try_out(plugin, Interpreter(python, mark="new"))

    builder = Builder(
        Blueprint(plugin=plugin, device=device, folder=folder, wishes=request.wishes),
        installers=_installers(),
        report=click.echo,
        judge=judge,
        own_terminal=sys.stdout.isatty(),
    )
    if request.dry_run:
        builder.rehearse()
    else:
        click.echo(f"{plugin.manifest.id} is ready in {builder.build()}")


def _installers() -> list[Installer]:
    environment = process_environment()
    uv = uv_installer(environment)
    return [*([uv] if uv is not None else ()), pip_installer(environment)]
