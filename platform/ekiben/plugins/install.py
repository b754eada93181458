"""Installing what a plugin requires, with pip, into this interpreter. Only ever asked for by a person.

pip reads its own configuration: indexes, mirrors, proxies, PIP_CONSTRAINT.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping

from ekiben.errors import ConfigError, EkibenError
from ekiben.plugins.discovery import Plugin


def pip_command(plugin: Plugin, *, dry_run: bool = False, quiet: bool = False) -> list[str]:
    """How pip is called. All requirements are named, so that pip fits them to one another.

    Raises ConfigError when this interpreter has no pip.
    """
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`")
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--dry-run"] if dry_run else []
    command += ["--progress-bar", "off"] if quiet else []
    return [*command, *plugin.manifest.requires]


def install(
    plugin: Plugin,
    *,
    environment: Mapping[str, str],
    report: Callable[[str], None] | None = None,
    dry_run: bool = False,
) -> None:
    """Run pip to its end. `report` gets its lines; None: pip has the terminal to itself.

    Raises EkibenError with pip's own reason, and ConfigError. A KeyboardInterrupt waits for pip, which
    gets the same signal from the terminal, and passes on.
    """
    command = pip_command(plugin, dry_run=dry_run, quiet=report is not None)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=None if report is None else subprocess.PIPE,
        stderr=None if report is None else subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(environment),
    )
    reason = ""
    try:
        for line in process.stdout or ():
            if line.startswith("ERROR:") and not reason:
                reason = line.removeprefix("ERROR:").strip()
            if report is not None and not line.startswith("Requirement already satisfied"):
                report(line.rstrip())
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code != 0:
        what = " ".join(plugin.manifest.requires)
        raise EkibenError(f"pip could not install {what}: {reason or f'it ended with code {code}'}")
    importlib.invalidate_caches()
