"""A build of an environment that was interrupted, and how far it came: the next one like it goes on there.

What counts as like it is for the builder to say. Knows nothing of what the steps do.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ekiben.plugins.environments import site_folders

PROGRESS_FILE: Final = "unfinished.json"
_INSTALLED_BY: Final = "INSTALLER"
"""A file of each distribution, which installers enter into its record when all else is there."""


class _Progress(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plan: str
    steps: list[str] = []


class Unfinished:
    """The steps of one build, each written down when it is done."""

    def __init__(self, built: Path, progress: _Progress) -> None:
        self.built = built
        self._progress = progress

    @classmethod
    def begin(cls, built: Path, *, plan: str) -> Unfinished:
        """In a new folder, or in one where this plan was begun."""
        known = _read(built)
        if known is not None and known.plan == plan:
            _drop_halves(built)
            return cls(built, known)
        built.mkdir(mode=0o755)
        begun = cls(built, _Progress(plan=plan))
        begun._write()
        return begun

    @property
    def begun(self) -> bool:
        """Whether some of it had been done before."""
        return bool(self._progress.steps)

    def lacks(self, step: str) -> bool:
        return step not in self._progress.steps

    def done(self, step: str) -> None:
        self._progress.steps.append(step)
        self._write()

    def end(self) -> None:
        """The build is whole."""
        (self.built / PROGRESS_FILE).unlink()

    def _write(self) -> None:
        file = self.built / PROGRESS_FILE
        part = file.with_name(f"{file.name}.part")
        part.write_text(self._progress.model_dump_json() + "\n", encoding="utf-8")
        part.replace(file)


def find(folder: Path, *, plan: str) -> Path | None:
    """Where in an engine's folder this plan was begun."""
    places = (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink())
    return next((path for path in places if (known := _read(path)) is not None and known.plan == plan), None)


def _read(built: Path) -> _Progress | None:
    try:
        return _Progress.model_validate_json((built / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _drop_halves(built: Path) -> None:
    """Forget distributions that are not whole, so that the installer does not take them for installed."""
    for site in site_folders(built):
        for info in site.glob("*.dist-info"):
            try:
                whole = f"{info.name}/{_INSTALLED_BY}," in (info / "RECORD").read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                whole = False
            if not whole:
                shutil.rmtree(info)
