"""Building an engine's own virtual environment, and removing it. Only ever asked for by a person.

What is built there: all that the platform requires, what the engine requires on the kind of device chosen,
and links to the platform and the plugin themselves, so that a replica runs the very code of its platform.
A build has a folder of its own and counts from the moment that the link `current` names it: until then
nobody uses it, and whatever interrupts it leaves nothing that is taken for whole. The next build of the same
plan goes on where it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil
from packaging.requirements import Requirement

from ekiben import __version__
from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.contract.manifest import EnvironmentTable
from ekiben.errors import ConfigError, Conflict, EkibenError
from ekiben.plugins import unfinished
from ekiben.plugins.discovery import Plugin
from ekiben.plugins.environments import (
    CURRENT,
    LOCK_FILE,
    NOTE_FILE,
    OWN_DISTRIBUTION,
    Note,
    applies,
    base_requirements,
    name_of,
    own_requirements,
    plain,
    site_folders,
)
from ekiben.plugins.installers import Installer, Report, Wishes
from ekiben.plugins.unfinished import Unfinished

MADE: Final = "made"
"""The step after which there is an interpreter."""
FIRST: Final = "first"
"""The step after which what is installed by itself is there."""
LINKS: Final = "platform"
"""How the folder of links begins, in an environment."""
_PATH_FILE: Final = "ekiben-platform.pth"
_DRY: Final = ("--dry-run",)
_ALONE: Final = ("--no-deps",)

Judge = Callable[[Path], str | None]
"""What is wrong with the plugin under an interpreter; None when it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What is to be built."""

    plugin: Plugin
    device: str
    folder: Path
    """Of all environments of the engine."""
    wishes: Wishes

    @property
    def table(self) -> EnvironmentTable:
        return self.plugin.manifest.environment_for(self.device)

    @property
    def requirements(self) -> tuple[str, ...]:
        """Those of the engine."""
        return self.plugin.manifest.requirements(self.device)

    @property
    def base(self) -> list[str]:
        """Those of the platform and of the distribution that brings the plugin."""
        return list(dict.fromkeys((*base_requirements(), *own_requirements(self.plugin.distribution))))


class Builder:
    """Builds what a blueprint says, with the first of its installers that can."""

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        installers: list[Installer],
        report: Report,
        judge: Judge,
        own_terminal: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`report` gets lines of progress; with `own_terminal` installers draw theirs themselves."""
        self._plan = blueprint
        self._installers = installers
        self._report = report
        self._lines = None if own_terminal else report
        self._judge = judge
        self._clock = clock

    def build(self) -> Path:
        """Build, try out and publish. Raises EkibenError, and leaves what was there before as it was."""
        with self._attempts() as attempt:
            return attempt(self._complete)

    @cached_property
    def _mark(self) -> str:
        """The same for builds that would come out the same, so that one can go on with another."""
        plan = self._plan
        wishes = [str(plan.wishes.wheels), *(path.read_text() for path in plan.wishes.constraints)]
        parts = [plan.device, __version__, sys.version, str(Path(sys.executable).resolve())]
        lists = [plan.base, [*plan.requirements], [*plan.table.constraints], [*plan.table.without]]
        return hashlib.sha256(json.dumps([parts, lists, wishes]).encode()).hexdigest()

    def rehearse(self) -> None:
        """Have the installer say what it would install."""

        def say(built: Path, installer: Installer) -> Path:
            self._make(built)
            wanted = self._first() or [*self._plan.base, *self._plan.requirements]
            installer.install(
                built / "bin" / "python",
                wanted,
                what=self._what,
                wishes=self._wishes(built),
                extra=(*_DRY, *(_ALONE if self._first() else ())),
                report=self._lines,
            )
            if self._first():
                self._report(f"and what these require, without {', '.join(self._plan.table.without)}")
            shutil.rmtree(built)
            return built

        with self._attempts() as attempt:
            attempt(say)

    @contextmanager
    def _attempts(self) -> Iterator[Callable[[Callable[[Path, Installer], Path]], Path]]:
        """Alone with the engine's folder; nothing that has failed stays."""
        try:
            self._plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._plan.folder):
                begun = self._begun()
                sweep(self._plan.folder, spared=frozenset() if begun is None else frozenset({begun.name}))
                yield self._attempt
                sweep(self._plan.folder)
        except OSError as error:
            raise EkibenError(
                f"the environment cannot be written under {self._plan.folder}: {error.strerror or error}; "
                "make room, or choose another disk with --home"
            ) from error

    def _attempt(self, work: Callable[[Path, Installer], Path]) -> Path:
        """With one installer after the other, each in a folder of its own."""
        for installer in self._installers[:-1]:
            try:
                return self._within(work, installer)
            except EkibenError as error:
                self._report(f"{error.message}: trying {self._installers[-1].name}")
        return self._within(work, self._installers[-1])

    def _within(self, work: Callable[[Path, Installer], Path], installer: Installer) -> Path:
        built = self._begun() or self._plan.folder / f"{self._plan.device}-{secrets.token_hex(4)}"
        try:
            return work(built, installer)
        except Exception:  # not when it is interrupted: then the next one goes on
            shutil.rmtree(built, ignore_errors=True)
            raise

    def _begun(self) -> Path | None:
        """Where such a build was interrupted, unless something is still at work there."""
        built = unfinished.find(self._plan.folder, plan=self._mark)
        return None if built is None or users(built) else built

    def _complete(self, built: Path, installer: Installer) -> Path:
        plan = self._plan
        progress = Unfinished.begin(built, plan=self._mark)
        begun = "going on with the" if progress.begun else "making an"
        self._report(f"{begun} environment for {plan.device} in {built}")
        if progress.lacks(MADE):
            self._make(built)
            progress.done(MADE)
        self._install(built, installer, progress)
        links = link_platform(built, plan.plugin)
        self._report("trying it out")
        if (problem := self._judge(built / "bin" / "python")) is not None:
            raise EkibenError(f"{plan.plugin.manifest.id} is installed and still not ready: {problem}")
        self._sign(built, installer, links)
        progress.end()
        publish(built)
        return built

    def _make(self, built: Path) -> None:
        command = [sys.executable, "-m", "venv", "--without-pip", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise EkibenError(f"{sys.executable} cannot make a virtual environment: {reason[-1]}")

    def _install(self, built: Path, installer: Installer, progress: Unfinished) -> None:
        plan, python, wishes = self._plan, built / "bin" / "python", self._wishes(built)
        wanted = list(plan.requirements)
        if first := self._first():
            if progress.lacks(FIRST):
                self._report(f"installing {' '.join(first)} with {installer.name}")
                installer.install(
                    python, first, what=self._what, wishes=wishes, extra=_ALONE, report=self._lines
                )
                progress.done(FIRST)
            wanted = _requirements_of(built, first, without=plan.table.without)
        wanted = [*plan.base, *wanted]
        self._report(f"installing {len(wanted)} requirements with {installer.name}")
        installer.install(python, wanted, what=self._what, wishes=wishes, report=self._lines)

    @property
    def _what(self) -> str:
        return f"what {self._plan.plugin.manifest.id} requires on {self._plan.device}"

    def _first(self) -> list[str]:
        """What is installed by itself, so that what it asks for can be chosen from."""
        return list(self._plan.requirements) if self._plan.table.without else []

    def _wishes(self, built: Path) -> Wishes:
        """The user's, and the constraints of the manifest."""
        wishes = self._plan.wishes
        if not self._plan.table.constraints:
            return wishes
        file = built / "constraints.txt"
        file.write_text("".join(f"{line}\n" for line in self._plan.table.constraints), encoding="utf-8")
        return Wishes(constraints=(file, *wishes.constraints), wheels=wishes.wheels)

    def _sign(self, built: Path, installer: Installer, links: str) -> None:
        """The lock and the note, which say that it is whole."""
        found = metadata.distributions(path=[str(site) for site in site_folders(built)])
        packages = sorted({(plain(d.name), d.version) for d in found})
        lock = "".join(f"{name}=={version}\n" for name, version in packages)
        (built / LOCK_FILE).write_text(lock, encoding="utf-8")
        note = Note(
            engine=self._plan.plugin.manifest.id,
            device=self._plan.device,
            ekiben=__version__,
            python=".".join(map(str, sys.version_info[:3])),
            base=(built / "bin" / "python").resolve(),
            tool=f"{installer.name} {installer.version}",
            requires=self._plan.requirements,
            links=links,
            made_at=self._clock.now(),
        )
        _write(built / NOTE_FILE, note.model_dump_json(indent=2) + "\n")


def relink(built: Path, note: Note, plugin: Plugin) -> None:
    """Let an environment see the platform and the plugin as they are now. Raises Conflict, ConfigError."""
    with locked(built.parent):
        links = link_platform(built, plugin)
        renewed = note.model_copy(update={"ekiben": __version__, "links": links})
        _write(built / NOTE_FILE, renewed.model_dump_json(indent=2) + "\n")
        shutil.rmtree(built / note.links, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def publish(built: Path) -> None:
    """From now on this is the engine's environment."""
    link = built.parent / f".{CURRENT}-{built.name}"
    link.unlink(missing_ok=True)
    link.symlink_to(built.name)
    link.replace(built.parent / CURRENT)


def remove(folder: Path, *, spared: frozenset[int] = frozenset()) -> None:
    """Remove all environments of an engine. Raises Conflict while processes run in them.

    `spared` are process ids that may be there: warm processes, which end by themselves.
    """
    with locked(folder):
        if pids := [pid for pid in users(folder) if pid not in spared]:
            raise Conflict(
                f"{folder.name} runs in process {', '.join(map(str, pids))}: stop its models first"
            )
        (folder / CURRENT).unlink(missing_ok=True)
        shutil.rmtree(folder)


def users(folder: Path) -> list[int]:
    """The processes whose interpreter lies in the folder."""
    beginning = f"{folder}/"
    found = psutil.process_iter(["cmdline", "status"])
    return sorted(
        process.pid
        for process in found
        if (process.info["cmdline"] or [""])[0].startswith(beginning)
        and process.info["status"] != psutil.STATUS_ZOMBIE
    )


def sweep(folder: Path, *, spared: frozenset[str] = frozenset()) -> None:
    """Remove builds that do not count and that nobody uses; called with the folder locked.

    `spared`: names of folders that stay all the same.
    """
    current = (folder / CURRENT).readlink().name if (folder / CURRENT).is_symlink() else None
    stays = spared | {current}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in stays and not users(path):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(f".{CURRENT}-"):
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one who builds or removes environments of an engine. Raises Conflict."""
    with folder.with_name(f".{folder.name}.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{folder.name} is being installed by another process: wait for it") from None
        yield


def link_platform(built: Path, plugin: Plugin) -> str:
    """Let an environment see the code of the platform and of the plugin, and their entry points.

    Gives the name of the folder with the links: to what their distributions have put into this
    interpreter's libraries, be it packages or the path files of an editable installation.
    """
    links = built / f"{LINKS}-{secrets.token_hex(4)}"
    links.mkdir()
    for name in sorted({OWN_DISTRIBUTION, plugin.distribution}):
        for source in _parts_of(name):
            (links / source.name).symlink_to(source)
    package = plugin.manifest.package
    spec = find_spec(package)
    if spec is not None and spec.origin is not None and not _is_seen(links, package):
        (links / package).symlink_to(Path(spec.origin).parent)
    for site in site_folders(built)[:1]:
        _write(site / _PATH_FILE, f"import site; site.addsitedir({str(links)!r})\n")
    return links.name


def _parts_of(name: str) -> list[Path]:
    """What lies directly in the folder of libraries, of all that a distribution has installed."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ConfigError(f"the distribution {name!r} is not installed: install it again") from None
    home = Path(str(distribution.locate_file("")))
    names = {file.parts[0] for file in distribution.files or () if not file.is_absolute()}
    info = getattr(distribution, "_path", None)
    parts = {home / part for part in names if part not in ("..", "__pycache__")}
    parts |= {info} if isinstance(info, Path) else set()
    return sorted(part for part in parts if part.exists())


def _is_seen(links: Path, package: str) -> bool:
    """Whether the package is in the links, or on a path that one of them adds."""
    paths = (line.strip() for file in links.glob("*.pth") for line in file.read_text().splitlines())
    folders = [links, *(Path(path) for path in paths if path and not path.startswith("import"))]
    return any((folder / package / "__init__.py").is_file() for folder in folders)


def _requirements_of(built: Path, texts: list[str], *, without: tuple[str, ...]) -> list[str]:
    """What the named distributions, which are installed there, require themselves, but for some."""
    wanted = {name_of(text): Requirement(text) for text in texts}
    left_out = {plain(name) for name in without}
    found: dict[str, None] = {}
    for distribution in metadata.distributions(path=[str(site) for site in site_folders(built)]):
        asked = wanted.get(plain(distribution.name))
        for text in (distribution.requires or ()) if asked is not None else ():
            requirement = Requirement(text)
            extras = ("", *(asked.extras if asked is not None else ()))
            if plain(requirement.name) not in left_out and applies(requirement, extras):
                requirement.marker = None
                found[str(requirement)] = None
    return list(found)
