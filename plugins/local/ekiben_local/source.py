"""Weights that are on this machine already: checks that they can be read, and leaves them where they are."""

from __future__ import annotations

import os
from pathlib import Path

from ekiben.contract import FetchFailed, FetchProgress, FetchRequest


class Local:
    def fetch(self, request: FetchRequest) -> Path:
        """The path itself. Raises FetchFailed when it is not there or cannot be read."""
        given = request.parameters["path"]
        path = _expanded(given)
        try:
            exists = path.exists()
        except PermissionError:
            exists = True
        if not exists:
            raise FetchFailed(f"there is nothing at {str(path)!r}: check the path in the spec")
        if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
            raise FetchFailed(f"{str(path)!r} cannot be read: check its permissions")
        if path.is_dir() and not any(path.iterdir()):
            raise FetchFailed(f"the folder {str(path)!r} is empty")
        size_bytes = path.stat().st_size if path.is_file() else 0
        request.report(FetchProgress(done_bytes=size_bytes, total_bytes=size_bytes, file=path.name))
        return path


def _expanded(given: str) -> Path:
    try:
        path = Path(given).expanduser()
    except RuntimeError:
        raise FetchFailed(f"the home folder in {given!r} cannot be told: write an absolute path") from None
    if "\0" in given or not path.is_absolute():
        raise FetchFailed(f"{given!r} is not an absolute path")
    return path
