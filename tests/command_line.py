"""The command line as a user runs it, in a process of its own; and interpreters with plugins of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_S = 120


@dataclass(frozen=True)
class CommandLine:
    """`ekiben` on one home."""

    home: Path
    python: str = sys.executable
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("EKIBEN_")}
        return clean | {"EKIBEN_HOME": str(self.home), **self.env}

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-m", "ekiben.cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=self.timeout_s,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What a command that must succeed prints with `--json`."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def started(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A command that is still running, with pipes unless `options` say otherwise; ended afterwards."""
        pipes: dict[str, Any] = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        command = [self.python, "-m", "ekiben.cli", *arguments]
        with subprocess.Popen(command, env=self.environment(), **pipes | options) as process:
            try:
                yield process
            finally:
                process.kill()


def assert_fails(done: subprocess.CompletedProcess[str], *parts: str, code: int = 1) -> None:
    """It ended with that code, and said why in a sentence that has all the parts, and nothing else."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines and all(line.startswith("error: ") for line in lines), done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


def make_interpreter(folder: Path, *projects: Path) -> str:
    """A virtual environment that has all that this one has, and these projects installed with pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = sysconfig.get_paths()["purelib"]
    (folder / "lib" / version / "site-packages" / "shared.pth").write_text(
        f"import site; site.addsitedir({shared!r})\n"
    )
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--disable-pip-version-check", *map(str, projects)], check=True)
    return str(python)
