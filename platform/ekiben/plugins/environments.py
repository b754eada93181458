"""Where each plugin lives: in the platform's interpreter, or an engine in a virtual environment of its own.

The one place that is asked whether a plugin is installed and which interpreter runs it. Reads files, and
changes nothing: `construction` builds environments and removes them. A replica, which runs inside such an
environment, asks without a home and sees its own interpreter only.

An environment lies in `engines/ID/` of the home, in a folder of its own for each time it was built; the link
`current` names the one that counts. So one that is half built is never taken for whole, and one that is
replaced lasts for as long as its processes do.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ekiben import __version__
from ekiben.contract.manifest import Manifest, PluginKind
from ekiben.plugins.gpus import hardware

OWN_DISTRIBUTION: Final = "ekiben"
ENGINES_FOLDER: Final = "engines"
CURRENT: Final = "current"
NOTE_FILE: Final = "environment.json"
LOCK_FILE: Final = "lock.txt"

VersionOf = Callable[[str], str | None]


class Note(BaseModel):
    """How an environment was built; written last, so what has none is not whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str
    device: str
    ekiben: str
    """The platform's version, of which it has links."""
    python: str
    base: Path
    """The file that its interpreter is a link to."""
    tool: str
    requires: tuple[str, ...]
    links: str
    """The folder with the links to the platform and the plugin."""
    made_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs an engine."""

    python: Path
    mark: str = ""
    """Changes with whatever is installed into an environment of its own."""
    asks: Mapping[str, str] = field(default_factory=dict)
    """Variables that the engine's manifest wants."""

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables of its processes: programs that libraries bring are found first.

        What `environment` says goes before what the engine asks.
        """
        variables = {**self.asks, **environment}
        if not self.mark:
            return variables
        folder = str(self.python.parent)
        path = environment.get("PATH")
        return {**variables, "PATH": f"{folder}:{path}" if path else folder}


PLATFORM_INTERPRETER: Final = Interpreter(Path(sys.executable))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a plugin stands on this machine."""

    interpreter: Interpreter
    missing: tuple[str, ...]
    """The requirements that are not met; empty when it is ready."""
    kinds: frozenset[str]
    """The kinds of device whose requirements are met."""
    sites: tuple[Path, ...]
    """Where its libraries lie."""
    folder: Path | None = None
    """Of its own environment."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """The distributions that its own environment has, with their versions."""
    note: Note | None = None
    fault: str | None = None
    """Why its environment cannot be used, whatever is installed in it."""
    outdated: bool = False
    """Whether new links to the platform are all that it needs."""

    @property
    def ready(self) -> bool:
        return not self.missing and self.fault is None

    @property
    def problem(self) -> str | None:
        """Why it is not ready, as a phrase."""
        return self.fault or (f"missing: {', '.join(self.missing)}" if self.missing else None)


class Environments:
    """Those of one home, as they are whenever asked; without a home there is only this interpreter."""

    def __init__(
        self, home: Path | None = None, *, hardware: Callable[[], tuple[str, ...]] = hardware
    ) -> None:
        """`hardware` gives the kinds of device that the machine has, best first."""
        self._home = home
        self._hardware = hardware

    def standing(self, manifest: Manifest) -> Standing:
        """An environment of its own counts, unless it is of no use and this interpreter is."""
        own = self.own(manifest)
        if own is not None and own.ready:
            return own
        here = self._here(manifest)
        return here if own is None or here.ready else own

    def folder(self, engine: str) -> Path | None:
        """Where environments of the engine are built."""
        return None if self._home is None else self._home / ENGINES_FOLDER / engine

    def best_kind(self, manifest: Manifest) -> str | None:
        """The kind of device to install for: the best that this machine has and the engine knows.

        None for plugins that run on no device.
        """
        if manifest.engine is None:
            return None
        known = manifest.engine.devices
        return next((kind for kind in (*self._machine, "cpu") if kind in known), known[0])

    @cached_property
    def _machine(self) -> tuple[str, ...]:
        return self._hardware()

    def _here(self, manifest: Manifest) -> Standing:
        kinds, missing = self._met(manifest, partial(_version_here, _state_here()))
        return Standing(
            interpreter=PLATFORM_INTERPRETER, missing=missing, kinds=kinds, sites=_platform_sites()
        )

    def own(self, manifest: Manifest) -> Standing | None:
        """How its environment stands, used or not; None where it has none."""
        folder = self.folder(manifest.id)
        if folder is None or manifest.kind is not PluginKind.ENGINE or not (folder / CURRENT).is_symlink():
            return None
        built = folder / (folder / CURRENT).readlink()
        try:
            record = _Record.read(built)
        except (OSError, ValueError) as error:
            return self._unreadable(manifest, built, error)
        kinds, missing = self._met(manifest, record.packages.get)
        base = (text for text in base_requirements() if not _satisfied(text, record.packages.get))
        return Standing(
            interpreter=Interpreter(built / "bin" / "python", mark=record.mark),
            missing=(*missing, *base),
            kinds=kinds,
            sites=tuple(site_folders(built)),
            folder=built,
            packages=record.packages,
            note=record.note,
            fault=record.fault,
            outdated=record.outdated,
        )

    def _unreadable(self, manifest: Manifest, built: Path, error: Exception) -> Standing:
        return Standing(
            interpreter=Interpreter(built / "bin" / "python", mark=built.name),
            missing=manifest.requirements(self.best_kind(manifest)),
            kinds=frozenset(),
            sites=(),
            folder=built,
            fault=f"its environment {built} cannot be read ({' '.join(str(error).split())[:200]})",
        )

    def _met(self, manifest: Manifest, version_of: VersionOf) -> tuple[frozenset[str], tuple[str, ...]]:
        """The kinds of device whose requirements are met, and what the best one lacks if there is none."""
        devices: tuple[str | None, ...] = manifest.engine.devices if manifest.engine is not None else (None,)
        lacking = {kind: _missing(manifest.requirements(kind), version_of) for kind in devices}
        kinds = frozenset(kind for kind, texts in lacking.items() if kind is not None and not texts)
        if not all(lacking.values()):
            return kinds, ()
        return kinds, lacking[self.best_kind(manifest)]


@dataclass(frozen=True, slots=True)
class _Record:
    """What an environment's files say."""

    note: Note
    packages: Mapping[str, str]
    mark: str
    fault: str | None
    outdated: bool

    @classmethod
    def read(cls, built: Path) -> _Record:
        """Raises OSError or ValueError."""
        note_file, lock = built / NOTE_FILE, built / LOCK_FILE
        changed = (note_file.stat().st_mtime_ns, lock.stat().st_mtime_ns)
        note, packages = _read_files(built, changed)
        gone = _gone(built, note)
        change = None if gone else _change(built, note)
        return cls(note, packages, f"{built.name} {changed[0]}", gone or change, change is not None)


@cache
def _read_files(built: Path, changed_ns: tuple[int, int]) -> tuple[Note, Mapping[str, str]]:
    try:
        note = Note.model_validate_json((built / NOTE_FILE).read_bytes())
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None
    lines = (built / LOCK_FILE).read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines)
    return note, {plain(name): version for name, _, version in pairs}


def _gone(built: Path, note: Note) -> str | None:
    """A change of Python, after which an environment has to be built anew."""
    python = built / "bin" / "python"
    if python.resolve() != note.base or not note.base.exists():
        return f"its environment was built for Python {note.python} at {note.base}, which is gone"
    return None


def _change(built: Path, note: Note) -> str | None:
    """A change of the platform, after which an environment needs new links to it."""
    if note.ekiben != __version__:
        return f"its environment was built by Ekiben {note.ekiben}, and this is {__version__}"
    for link in (built / note.links).iterdir():
        if not link.exists():
            return f"its environment has a link to {link.readlink()}, which is gone"
    return None


def site_folders(built: Path) -> list[Path]:
    """Where a virtual environment has its libraries."""
    return sorted(built.glob("lib*/python3*/site-packages"))


@cache
def base_requirements() -> tuple[str, ...]:
    """What the platform itself requires, and so every environment."""
    return own_requirements(OWN_DISTRIBUTION)


def own_requirements(distribution: str) -> tuple[str, ...]:
    """What a distribution requires here without any of its extras, and besides the platform."""
    try:
        texts = metadata.requires(distribution) or ()
    except metadata.PackageNotFoundError:
        return ()
    return tuple(text for text in texts if applies(Requirement(text)) and name_of(text) != OWN_DISTRIBUTION)


def applies(requirement: Requirement, extras: Iterable[str] = ("",)) -> bool:
    """Whether its marker holds on this machine, under one of the extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def name_of(requirement: str) -> str:
    """Of the distribution that it asks for."""
    return plain(Requirement(requirement).name)


@cache
def plain(name: str) -> str:
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _missing(requirements: Iterable[str], version_of: VersionOf) -> tuple[str, ...]:
    return tuple(text for text in requirements if not _satisfied(text, version_of))


def _satisfied(text: str, version_of: VersionOf) -> bool:
    try:
        name = _parsed(text).name
    except InvalidRequirement:
        return False
    return _fits(text, version_of(plain(name)))


@cache
def _parsed(text: str) -> Requirement:
    return Requirement(text)


@lru_cache(maxsize=4096)
def _fits(text: str, version: str | None) -> bool:
    requirement = _parsed(text)
    if not applies(requirement):
        return True
    try:
        return version is not None and requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _state_here() -> tuple[tuple[str, int], ...]:
    """Changes whenever distributions are installed into this interpreter, or removed."""
    return tuple((path, _changed_ns(path)) for path in sys.path)


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - a path object would take longer than the look
    except OSError:
        return 0


@lru_cache(maxsize=4096)
def _version_here(state: tuple[tuple[str, int], ...], name: str) -> str | None:
    """Remembered: to find it out takes a millisecond, and every start of a model asks."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def _platform_sites() -> tuple[Path, ...]:
    return tuple(sorted({Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}))
