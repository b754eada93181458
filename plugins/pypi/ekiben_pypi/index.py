"""Asking pip, so that every index, mirror, certificate and proxy it is configured for counts here too.

Nothing is installed and nothing of a package is run: only wheels are considered, and pip merely says
where they are.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ekiben.contract import FetchFailed
from ekiben.contract.parent import die_with_parent

_LOOK_EVERY_S: Final = 0.2
_TIMEOUT_S: Final = 60.0
_WRONG_USAGE: Final = 2
_WITHOUT_THE_WHOLE_WHEEL: Final = ("--use-feature", "fast-deps")
"""Where an index has no separate metadata, pip reads the end of the wheel instead of all of it."""
_CONFIG_LINE: Final = re.compile(r"(?P<section>[^=]*?)\.(?P<name>[a-z-]+)=(?P<value>.*)")
_BROKEN_CONNECTION: Final = re.compile(r"after connection broken by '(?P<reason>.*)': ")
_SECTIONS: Final = ("global", "install", "download", ":env:")
_SETTINGS_OF_PIP: Final = {
    "PIP_NO_INPUT": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_COLOR": "1",
    "PIP_USER": "0",
    "PIP_REQUIRE_VIRTUALENV": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """Where the wheel of a pin lies."""

    pin: str
    url: str
    sha256: str | None
    """None where the index does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What of pip's configuration matters for a download."""

    certificates: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    trusted_hosts: frozenset[str] = frozenset()
    timeout_s: float = _TIMEOUT_S


class Pip:
    """pip of this interpreter, run in processes of its own that end with this one. For one fetch."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**environment, **_SETTINGS_OF_PIP}
        self._telling_configuration = self._start("config", "list")  # while it resolves

    def resolve(self, pins: Iterable[str]) -> dict[str, Wheel]:
        """The wheel of each pin. Raises FetchFailed with what pip says."""
        pins = sorted(pins)
        arguments = ["install", "--dry-run", "--ignore-installed", "--report", "-", "--quiet"]
        arguments += ["--no-deps", "--only-binary", ":all:", *pins]
        process = self._start(*arguments, *_WITHOUT_THE_WHOLE_WHEEL)
        report, complaints = process.communicate()
        if process.returncode == _WRONG_USAGE:  # a pip that has no such feature any more
            process = self._start(*arguments)
            report, complaints = process.communicate()
        _check(process, complaints, purpose=f"find {', '.join(pins)}")
        found: list[dict[str, Any]] = json.loads(report)["install"]
        by_name = {_canonical(item["metadata"]["name"]): item["download_info"] for item in found}
        try:
            return {pin: _wheel(pin, by_name[_canonical(pin.partition("==")[0])]) for pin in pins}
        except KeyError as error:
            raise FetchFailed(f"pip found another package than {error}: check its name") from None

    def network(self) -> Network:
        """From pip's configuration files, environment variables and defaults."""
        out, complaints = self._telling_configuration.communicate()
        _check(self._telling_configuration, complaints, purpose="tell its configuration")
        values = _configuration(out)
        environment = self._environment
        certificates = values.get("cert") or next(
            (environment[name] for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if environment.get(name)),
            None,
        )
        return Network(
            certificates=certificates,
            client_certificate=values.get("client-cert"),
            proxy=values.get("proxy"),
            trusted_hosts=frozenset(values.get("trusted-host", "").split()),
            timeout_s=_seconds(values.get("timeout") or values.get("default-timeout")),
        )

    def download(self, pin: str, folder: Path, *, watch: Callable[[int], None]) -> Path:
        """Have pip fetch the wheel, for indexes that only pip can speak to. Does not resume."""
        temporary = folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        process = self._start(
            *("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
            *("--dest", str(folder), pin),
            TMPDIR=str(temporary),
        )
        while process.poll() is None:
            watch(_size_of(folder))
            time.sleep(_LOOK_EVERY_S)
        _check(process, process.communicate()[1], purpose=f"download {pin}")
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise FetchFailed(f"pip brought {len(wheels)} wheels for {pin!r} instead of one")
        return wheels[0]

    def _start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pip", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**self._environment, **variables},
            preexec_fn=partial(die_with_parent, os.getpid()),
        )


def _check(process: subprocess.Popen[str], complaints: str, *, purpose: str) -> None:
    if process.returncode == 0:
        return
    if "No space left on device" in complaints:
        raise OSError(errno.ENOSPC, "No space left on device")
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    errors = [*_why_unreachable(lines), *errors]
    raise FetchFailed(f"pip could not {purpose}: {' / '.join(errors)[:400] or 'it did not say why'}")


def _why_unreachable(lines: list[str]) -> list[str]:
    """An index that cannot be reached has no versions of anything; pip tells why in its warnings only."""
    warnings = [line.removeprefix("WARNING: ") for line in lines if line.startswith("WARNING: ")]
    if not warnings or not any("(from versions: none)" in line for line in lines):
        return []
    broken = _BROKEN_CONNECTION.search(warnings[-1])
    return [broken["reason"] if broken else warnings[-1]]


def _wheel(pin: str, download: Mapping[str, Any]) -> Wheel:
    hashes = download.get("archive_info", {}).get("hashes", {})
    return Wheel(pin=pin, url=download["url"], sha256=hashes.get("sha256"))


def _configuration(text: str) -> dict[str, str]:
    """The effective values of `pip config list`: a later section overrides an earlier one."""
    values: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in text.splitlines():
        match = _CONFIG_LINE.fullmatch(line)
        if match is None or match["section"] not in values:
            continue
        try:
            values[match["section"]][match["name"]] = str(ast.literal_eval(match["value"]))
        except (ValueError, SyntaxError):
            values[match["section"]][match["name"]] = match["value"]
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged |= values[section]
    return merged


def _seconds(text: str | None) -> float:
    try:
        return max(1.0, float(text or ""))
    except ValueError:
        return _TIMEOUT_S


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip has moved it meanwhile
            continue
    return total
