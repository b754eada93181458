"""Other servers, each in a virtual environment of its own in the cache folder, never in the project's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Unavailable, say

_STAMP: Final = "installed"
_INSTALL_S: Final = 1800


def environment(name: str, *steps: tuple[str, ...], cache: Path) -> Path:
    """The environment's folder; made, and filled step by step with pip, the first time.

    Raises Unavailable when something cannot be installed.
    """
    folder = cache / name
    stamp = folder / _STAMP
    wanted = repr(steps)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    say(f"  installing {name} into {folder}")
    _run([sys.executable, "-m", "venv", str(folder)])
    for packages in steps:
        say(f"  installing {' '.join(packages)}")
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    stamp.write_text(wanted, encoding="utf-8")
    return folder


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[-2:])} was not installed in {_INSTALL_S} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise Unavailable(f"{' '.join(command[-2:])} cannot be installed: {last[0]}")
