"""Whether each plugin really works here: its object is made in a process of its own, with a deadline.

A plugin may fail, hang, print, fork or end its process: whatever it does, it does it to that process, and
comes out as a finding with the one command that mends it. Run as a module, this file is that process.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from ekiben.contract.manifest import METHODS_OF_KIND
from ekiben.plugins.discovery import BrokenPlugin, Plugin, Plugins, discover, load_object
from ekiben.plugins.environments import Interpreter, Standing, name_of, plain
from ekiben.settings import process_environment

DEADLINE_S: Final = 120.0
"""Importing torch from a cold disk takes a good part of a minute."""
SECRETS: Final = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What there is to say of one plugin."""

    id: str
    kind: str
    """`engine`, `source`, `policy` or `dialect`; empty when its manifest cannot tell."""
    distribution: str
    ready: bool
    problem: str | None = None
    """Why it is not ready, in a sentence."""
    fix: str | None = None
    """The one command that mends it."""


def examine(
    plugins: Plugins, ids: Iterable[str] | None = None, *, deadline_s: float = DEADLINE_S
) -> list[Finding]:
    """Look at these plugins, or at all, two at a time. Blocks, per plugin no longer than the deadline."""
    wanted = set(ids) if ids is not None else {*plugins.usable, *(b.id for b in plugins.broken)}
    chosen = [plugin for plugin_id, plugin in plugins.usable.items() if plugin_id in wanted]
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="doctor") as pool:
        found = list(
            pool.map(lambda plugin: _of_usable(plugin, plugins.standing(plugin), deadline_s), chosen)
        )
    found += [_of_broken(broken) for broken in plugins.broken if broken.id in wanted]
    return sorted(found, key=lambda finding: finding.id)


def _of_broken(broken: BrokenPlugin) -> Finding:
    fix = f"uninstall {shlex.quote(broken.uninstall)}" if broken.uninstall else _upgrade(broken.distribution)
    return Finding(
        id=broken.id,
        kind="",
        distribution=broken.distribution,
        ready=False,
        problem=broken.reason,
        fix=_pip(fix),
    )


def _of_usable(plugin: Plugin, standing: Standing, deadline_s: float) -> Finding:
    kind = plugin.manifest.kind.value
    install = f"ekiben engine install {plugin.manifest.id}"
    problem: str | None
    if not standing.ready:
        problem, fix = standing.fault or f"it lacks {', '.join(standing.missing)}", install
    else:
        problem = try_out(plugin, standing.interpreter, deadline_s=deadline_s)
        fix = _pip(_upgrade(plugin.distribution)) if standing.folder is None else f"{install} --rebuild"
    return Finding(
        id=plugin.manifest.id,
        kind=kind,
        distribution=plugin.distribution,
        ready=problem is None,
        problem=problem,
        fix=fix if problem else None,
    )


def _pip(arguments: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip {arguments}"


def _upgrade(distribution: str) -> str:
    return f"install --upgrade --force-reinstall {shlex.quote(distribution)}"


def try_out(plugin: Plugin, interpreter: Interpreter, *, deadline_s: float = DEADLINE_S) -> str | None:
    """What goes wrong when the plugin is imported and made; None when nothing does."""
    given = {k: v for k, v in process_environment().items() if not SECRETS.search(k.upper())}
    with tempfile.TemporaryDirectory(prefix="ekiben-doctor-") as folder:
        verdict = Path(folder) / "verdict.json"
        # -P: the folder in which the user happens to be must not offer modules.
        module = ("-P", "-m", "ekiben.plugins.doctor")
        command = [str(interpreter.python), *module, plugin.manifest.id, str(verdict)]
        # Its output goes nowhere: whatever the plugin prints is not meant for the user.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=interpreter.variables(given),
            cwd=folder,
            start_new_session=True,
        )
        try:
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return f"importing {plugin.manifest.object} does not come to an end within {deadline_s:g} s"
        finally:
            _end(process)
        return _read_verdict(verdict, plugin, code)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _read_verdict(path: Path, plugin: Plugin, code: int) -> str | None:
    try:
        problem = json.loads(path.read_text(encoding="utf-8"))["problem"]
    except (OSError, ValueError, KeyError):
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        return f"importing {plugin.manifest.object} ended its process {how}"
    return None if problem is None else str(problem)


# What follows runs in the process of the plugin.


def _judge(plugin_id: str) -> str | None:
    plugin = discover().usable.get(plugin_id)
    if plugin is None:
        return "it is not there any more"
    steps: Sequence[tuple[str, Callable[[], str | None]]] = (
        (f"importing {plugin.manifest.object}", lambda: _make(plugin)),
        ("importing what its replicas import", lambda: _import_preloads(plugin)),
        ("importing what it requires", lambda: _import_requirements(plugin)),
    )
    for what, step in steps:
        try:
            problem = step()
        except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is what we came to find
            return f"{what} fails: {_one_line(error)}"
        if problem is not None:
            return problem
    return None


def _make(plugin: Plugin) -> str | None:
    made = load_object(plugin)
    absent = [
        name for name in METHODS_OF_KIND[plugin.manifest.kind] if not callable(getattr(made, name, None))
    ]
    return f"{plugin.manifest.object} has no {' and no '.join(absent)}" if absent else None


def _import_preloads(plugin: Plugin) -> None:
    """What a zygote imports: first, for a plugin may have its own way to import what it requires."""
    section = plugin.manifest.engine
    for module in section.preload if section is not None else ():
        importlib.import_module(module)


def _import_requirements(plugin: Plugin) -> None:
    """A library can be installed and yet not work: a system library is missing, or the wrong numpy."""
    kinds = (None, *plugin.manifest.environment)
    names = {name_of(text) for kind in kinds for text in plugin.manifest.requirements(kind)}
    for name in sorted(names):
        for module in _modules_of(name):
            importlib.import_module(module)


def _modules_of(distribution: str) -> list[str]:
    """What to import to try a distribution: the module of its name, or else all it brings."""
    provides = [
        module
        for module, owners in metadata.packages_distributions().items()
        if distribution in map(plain, owners) and module.isidentifier() and module[0] != "_"
    ]
    namesake = [module for module in provides if plain(module) == distribution]
    return namesake or [module for module in sorted(provides) if module not in ("test", "tests")]


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def main(arguments: Sequence[str]) -> int:
    """`python -m ekiben.plugins.doctor ID FILE`: write the verdict on one plugin to a file."""
    plugin_id, path = arguments
    text = json.dumps({"problem": _judge(plugin_id)})
    Path(path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # A plugin may have left threads that never end.
    os._exit(code)
