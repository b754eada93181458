"""Weights from a Hugging Face Hub, or from a mirror that speaks its API.

huggingface_hub speaks to the hub; which files are taken, where they lie while they are incomplete, and
whether they are what the hub lists, is decided here, since its own downloads do not resume after a kill.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ekiben.contract import FetchFailed, FetchProgress, FetchRequest
from ekiben.contract.delivery import git_blob_sha1_of, require_space, sha256_of, share_file, target_in
from ekiben.contract.repository import RepositoryFile, Selection, refuse_pickle

if TYPE_CHECKING:
    from ekiben_huggingface.hub import Hub

_PARTIAL: Final = ".partial"
"""The subfolder for files under way; no file of the weights can have a name in it."""
_TRUE: Final = frozenset({"1", "on", "yes", "true"})


class HuggingFace:
    def fetch(self, request: FetchRequest) -> Path:
        """The file, or the folder of the repository. Raises FetchFailed."""
        from ekiben_huggingface.hub import Hub  # with the hub's library, which need not be installed

        selection = Selection.of(request.parameters)
        repo = request.parameters["repo"]
        revision = request.parameters.get("revision") or "main"
        if _is_offline(request.environment):
            _from_cache(request, selection, repo=repo, revision=revision)
        else:
            hub = Hub(request.environment, repo=repo, revision=revision)
            _Download(request, hub, selection.choose(hub.files())).run()
        shutil.rmtree(request.folder / _PARTIAL, ignore_errors=True)
        return selection.loader_path(request.folder)


@dataclass
class _Download:
    request: FetchRequest
    hub: Hub
    files: list[RepositoryFile]

    def run(self) -> None:
        """File by file; what an earlier try completed is checked and kept."""
        total_bytes = sum(file.size_bytes for file in self.files)
        done_bytes = 0
        for file in self.files:
            target = target_in(self.request.folder, file.path)

            def report(file_bytes: int, name: str = file.path, before: int = done_bytes) -> None:
                self.request.report(
                    FetchProgress(done_bytes=before + file_bytes, total_bytes=total_bytes, file=name)
                )

            report(0)
            if not _is_whole(target, file):
                target.unlink(missing_ok=True)
                self._bring(file, target, report=report)
            done_bytes += file.size_bytes
            report(file.size_bytes)

    def _bring(self, file: RepositoryFile, target: Path, *, report: Callable[[int], None]) -> None:
        partial = target_in(self.request.folder / _PARTIAL, file.path)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists() and partial.stat().st_size > file.size_bytes:
            partial.unlink()
        with _CountedFile(partial, report=report) as output:
            start = output.seek(0, io.SEEK_END)
            report(start)
            require_space(partial.parent, needed_bytes=file.size_bytes - start)
            self.hub.download(file, output, start=start)
        if not _is_whole(partial, file):
            partial.unlink()
            raise FetchFailed(f"{file.path!r} came damaged: it is not what the hub lists; try again")
        refuse_pickle(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)


class _CountedFile(io.FileIO):
    """Tells how long it is whenever it is written to."""

    def __init__(self, path: Path, *, report: Callable[[int], None]) -> None:
        path.touch()
        super().__init__(path, "r+")
        self._report = report

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        while view:  # the system may take less than it is given
            view = view[super().write(view) :]
        self._report(self.tell())
        return len(data)


def _is_whole(path: Path, file: RepositoryFile) -> bool:
    """Whether the file is what the hub lists."""
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    if file.sha256 is not None:
        return sha256_of(path) == file.sha256
    return file.git_sha1 is None or git_blob_sha1_of(path) == file.git_sha1


def _is_offline(environment: Mapping[str, str]) -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").lower() in _TRUE for name in names)


def _from_cache(request: FetchRequest, selection: Selection, *, repo: str, revision: str) -> None:
    """Take the files from the cache that Hugging Face's own libraries keep. Nothing is asked of a hub."""
    from ekiben_huggingface.hub import cached_snapshot

    snapshot = cached_snapshot(repo, revision=revision, allow=selection.patterns())
    if snapshot is None:
        raise FetchFailed(
            f"{repo!r} at {revision!r} is not, or not whole, in this machine's Hugging Face cache, and "
            "HF_HUB_OFFLINE is set: unset it, or bring the repository with `hf download`"
        )
    found = [
        RepositoryFile(path=path.relative_to(snapshot).as_posix(), size_bytes=path.stat().st_size)
        for path in snapshot.rglob("*")
        if path.is_file()
    ]
    files = selection.choose(found)
    total_bytes = sum(file.size_bytes for file in files)
    done_bytes = 0
    for file in files:
        target = target_in(request.folder, file.path)
        share_file(snapshot / file.path, target)
        refuse_pickle(target)
        done_bytes += file.size_bytes
        request.report(FetchProgress(done_bytes=done_bytes, total_bytes=total_bytes, file=file.path))
