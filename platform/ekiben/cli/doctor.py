"""`ekiben doctor`: is this machine fit, is the home in order, does a platform run on it."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ekiben import __version__
from ekiben.cli.output import echo_json, format_bytes, json_option
from ekiben.cli.session import Session, is_locked
from ekiben.errors import ConfigError

if TYPE_CHECKING:
    from ekiben.settings import Settings

ENOUGH_DISK_BYTES: Final = 5 * 10**9
LEAST_DISK_BYTES: Final = 500 * 10**6
ENOUGH_MEMORY_BYTES: Final = 10**9


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `ok`, `warn` or `fail`, and what mends it."""

    level: str
    name: str
    detail: str
    fix: str | None = None


@click.command()
@json_option
@click.pass_obj
def doctor(session: Session, as_json: bool) -> None:
    """Check this machine and the home, and say how to mend what is wrong.

    Exit code 1 when something fails that a platform needs. `ekiben engine doctor` looks deeper into
    the engines.
    """
    checks = list(_checks(session))
    if as_json:
        echo_json([asdict(check) for check in checks])
    else:
        for check in checks:
            click.echo(f"{_coloured(check.level)} {check.name}: {check.detail}")
            if check.fix:
                click.echo(f"     {check.fix}")
    if any(check.level == "fail" for check in checks):
        raise click.exceptions.Exit(1)


def _coloured(level: str) -> str:
    return click.style(level.ljust(4), fg={"ok": "green", "warn": "yellow", "fail": "red"}[level])


def _checks(session: Session) -> Iterator[Check]:
    yield from _versions()
    try:
        settings = session.settings
    except ConfigError as error:
        yield Check("fail", "settings", error.message)
        return
    yield Check("ok", "settings", "`ekiben config show` lists them")
    yield _home(settings.home)
    yield _disk(settings.home)
    yield _memory()
    yield from _engines(settings.home)
    yield _catalog(session, settings.home)
    yield from _platform(session, settings)


def _versions() -> Iterator[Check]:
    yield Check("ok", "python", f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")
    yield Check("ok", "ekiben", __version__)
    try:
        yield Check("ok", "bentoml", metadata.version("bentoml"))
    except metadata.PackageNotFoundError:
        yield Check("fail", "bentoml", "not installed", f"{sys.executable} -m pip install ekiben")


def _home(home: Path) -> Check:
    """Tries the folder itself, or, where there is none yet, the nearest one above it; leaves no trace."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(
            "fail", "home", f"{home} cannot be written: {error.strerror}", "choose another with --home"
        )
    return Check("ok", "home", str(home) if existing == home else f"{home}, made by the first `ekiben up`")


def _disk(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{format_bytes(free)} free"
    if free < LEAST_DISK_BYTES:
        return Check("fail", "disk", detail, "make room, or choose another disk with --home")
    if free < ENOUGH_DISK_BYTES:
        return Check("warn", "disk", detail, "larger models will not fit: make room, or use --home")
    return Check("ok", "disk", detail)


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} available"
    if memory.available < ENOUGH_MEMORY_BYTES:
        return Check("warn", "memory", detail, "only the smallest models will load: end other programs")
    return Check("ok", "memory", detail)


def _engines(home: Path) -> Iterator[Check]:
    from ekiben.plugins.discovery import discover

    plugins = discover(home)
    engines = plugins.engines()
    for plugin_id, plugin in engines.items():
        name = f"engine {plugin_id}"
        if problem := plugins.standing(plugin).problem:
            yield Check("warn", name, problem, f"ekiben engine install {plugin_id}")
        else:
            yield Check("ok", name, plugin.manifest.summary)
    for broken in plugins.broken:
        yield Check("warn", f"plugin {broken.id}", broken.reason, f"ekiben engine doctor {broken.id}")
    if not any(plugins.standing(plugin).ready for plugin in engines.values()):
        yield Check("fail", "engines", "none is installed", "ekiben engine install llama_cpp")


def _catalog(session: Session, home: Path) -> Check:
    from ekiben.cli.offline import open_catalog
    from ekiben.plugins.discovery import discover

    try:
        with open_catalog(home, discover(home)) as catalog:
            broken = [entry.name for entry in catalog.broken()]
            count = len(catalog.entries())
    except ConfigError as error:
        return Check("fail", "catalog", error.message)
    if broken:
        fix = f"add them again, or `ekiben model rm {broken[0]}`"
        return Check("warn", "catalog", f"cannot be read: {', '.join(broken)}", fix)
    return Check("ok", "catalog", f"{count} models")


def _platform(session: Session, settings: Settings) -> Iterator[Check]:
    platform = session.find_platform()
    if platform is not None:
        yield Check("ok", "platform", f"running on {platform.url}")
        return
    if is_locked(settings.home):
        fix = "wait until it is ready, or end the process that holds the file `lock` in the home"
        yield Check("fail", "platform", "one holds the home and does not answer", fix)
        return
    yield Check("ok", "platform", "not running: `ekiben up` starts it")
    yield _port(settings.host, settings.port)


def _port(host: str, port: int) -> Check:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        fix = "choose another with --host and --port, or EKIBEN_HOST and EKIBEN_PORT"
        return Check("fail", "port", f"{host}:{port} cannot be had: {error.strerror}", fix)
    return Check("ok", "port", f"{host}:{port} is free")
