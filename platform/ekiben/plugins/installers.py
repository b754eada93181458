"""What installs distributions: uv where it is present and understands pip's configuration, pip otherwise.

pip's own configuration is honoured either way: its files and `PIP_*` variables name the indexes, mirrors,
proxies and constraints of this machine.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final

from ekiben.contract.parent import die_with_parent
from ekiben.errors import ConfigError, EkibenError

Report = Callable[[str], None]

PIP: Final = (sys.executable, "-m", "pip")

_FLAGS_OF_UV: Final = {
    "constraint": "--constraint",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}
"""Options of pip that may be given several times, and what uv calls them."""
_SWITCHES_OF_UV: Final = {"no-index": ("--no-index",), "pre": ("--prerelease", "allow")}
_VARIABLES_OF_UV: Final = {
    "cert": ("SSL_CERT_FILE",),
    "extra-index-url": ("UV_EXTRA_INDEX_URL",),
    "index-url": ("UV_DEFAULT_INDEX",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
}
"""Addresses may hold passwords, which others could read in a command line."""
_OF_NO_CONCERN: Final = frozenset(
    {
        *(
            "break-system-packages",
            "cache-dir",
            "default-timeout",
            "disable-pip-version-check",
            "log",
            "no-cache-dir",
        ),
        *(
            "no-color",
            "no-input",
            "no-python-version-warning",
            "no-warn-script-location",
            "progress-bar",
            "quiet",
        ),
        *("require-virtualenv", "retries", "root-user-action", "timeout", "user", "verbose"),
    }
)
_SECTIONS: Final = ("global", "install", ":env:")
"""Of pip's configuration, those that concern an installation; later ones win."""

_CAUSE: Final = re.compile(r"\s+cause: |\s*[×╰]")
_HEAD: Final = re.compile(r"^[\s×╰─▶]*(error: |warning: |cause: )?", re.IGNORECASE)
_SPACE: Final = re.compile(r"No space left on device|os error 28|Errno 28|Disk quota exceeded")
_NETWORK: Final = re.compile(
    r"Temporary failure in name resolution|Name or service not known|Failed to establish a new connection"
    r"|Connection refused|Network is unreachable|ConnectTimeout|Read timed out|NewConnectionError"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user says of an installation."""

    constraints: tuple[Path, ...] = ()
    wheels: Path | None = None
    """Take everything from this folder, and nothing from any index."""

    def flags(self) -> list[str]:
        """pip and uv call them the same."""
        flags = [part for path in self.constraints for part in ("--constraint", str(path))]
        return flags if self.wheels is None else [*flags, "--no-index", "--find-links", str(self.wheels)]


@dataclass(frozen=True, slots=True)
class Installer:
    """One of the two, ready to be run."""

    name: str
    version: str
    command: tuple[str, ...]
    """Up to what to install; `{python}` stands for the interpreter to install into."""
    quiet: tuple[str, ...]
    """What keeps it from drawing on a terminal."""
    environment: Mapping[str, str] = field(repr=False)

    def install(
        self,
        python: Path,
        requirements: Sequence[str],
        *,
        what: str,
        wishes: Wishes,
        extra: Sequence[str] = (),
        report: Report | None = None,
    ) -> None:
        """Run it to its end. `report` gets its lines; None: it has the terminal to itself.

        Raises EkibenError: it could not install `what`, with its own reason. A KeyboardInterrupt ends it
        and passes on.
        """
        command = [part.replace("{python}", str(python)) for part in self.command]
        command += [*(self.quiet if report is not None else ()), *wishes.flags(), *extra, *requirements]
        reason = _run(command, self.environment, report)
        if reason is not None:
            raise EkibenError(_told(self.name, what, reason))


def pip_installer(environment: Mapping[str, str]) -> Installer:
    """pip, of this interpreter. Raises ConfigError when it has none."""
    if importlib.util.find_spec("pip") is None:
        raise ConfigError(f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`")
    command = (*PIP, "--python", "{python}", "install", "--no-input", "--disable-pip-version-check")
    return Installer("pip", metadata.version("pip"), command, ("--progress-bar", "off"), environment)


def uv_installer(environment: Mapping[str, str]) -> Installer | None:
    """uv, told what pip is configured to do; None where it is absent or cannot be told."""
    program = shutil.which("uv", path=environment.get("PATH")) or _beside_this_interpreter()
    told = None if program is None else _configured(environment)
    if program is None or told is None:
        return None
    flags, variables = told
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        return None
    # As pip does it: the best version of all indexes, and modules that are compiled once.
    like_pip = ("--index-strategy", "unsafe-best-match", "--compile-bytecode")
    command = (program, "pip", "install", "--python", "{python}", *like_pip, *flags)
    return Installer("uv", shown.stdout.split()[1], command, ("--no-progress",), {**environment, **variables})


def _beside_this_interpreter() -> str | None:
    program = Path(sys.executable).with_name("uv")
    return str(program) if program.is_file() else None


def _configured(environment: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]] | None:
    """pip's configuration in the words of uv: flags and variables. None where uv has no words for it."""
    done = subprocess.run(
        [*PIP, "config", "list"], env=dict(environment), capture_output=True, text=True, check=False
    )
    return translate(done.stdout) if done.returncode == 0 else None


def translate(listing: str) -> tuple[tuple[str, ...], dict[str, str]] | None:
    """What `pip config list` prints, in the words of uv; None where it has none."""
    flags: list[str] = []
    variables: dict[str, str] = {}
    for name, value in _options(listing).items():
        if name in _FLAGS_OF_UV:
            flags += [part for word in value.split() for part in (_FLAGS_OF_UV[name], word)]
        elif name in _VARIABLES_OF_UV:
            variables |= dict.fromkeys(_VARIABLES_OF_UV[name], " ".join(value.split()))
        elif name in _SWITCHES_OF_UV:
            flags += _SWITCHES_OF_UV[name] if value.lower() in ("1", "true", "yes", "on") else ()
        elif name not in _OF_NO_CONCERN:
            return None
    return tuple(flags), variables


def _options(listing: str) -> dict[str, str]:
    """The options that hold, of lines such as `global.index-url='…'`."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in _SECTIONS for name, value in found[section].items()}


def _run(command: Sequence[str], environment: Mapping[str, str], report: Report | None) -> str | None:
    """None when all went well; otherwise its reason, in one line."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=None if report is None else subprocess.PIPE,
        stderr=None if report is None else subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(environment),
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    lines: list[str] = []
    with process:
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                if report is not None and not line.startswith("Requirement already satisfied"):
                    report(line.rstrip())
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    return None if code == 0 else _reason(lines) or f"it ended with code {code}"


def _reason(lines: Sequence[str]) -> str:
    """What pip or uv says is wrong: a line of one, and of the other the causes below it too."""
    for pattern in (_SPACE, _NETWORK):
        if hit := next((line for line in lines if pattern.search(line)), None):
            return _bare(hit)
    errors = [_bare(line) for line in lines if line.lower().startswith("error:")]
    causes = [_bare(line) for line in lines if _CAUSE.match(line)]
    return "; ".join([*errors[:1], *causes])


def _bare(line: str) -> str:
    return _HEAD.sub("", line).strip().rstrip(".")


def _told(name: str, what: str, reason: str) -> str:
    sentence = f"{name} could not install {what}: {reason}"
    if _SPACE.search(reason):
        return f"{sentence}; make room, or choose another disk with --home"
    if _NETWORK.search(reason):
        return f"{sentence}; try again with a network, or give a folder of wheels with --wheels"
    return sentence
