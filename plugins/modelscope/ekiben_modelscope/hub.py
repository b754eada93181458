"""ModelScope, as modelscope-hub speaks to it: what a revision holds, and a download that resumes.

Its errors become one sentence that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from modelscope_hub import HubApi, HubConfig, ProgressCallback
from modelscope_hub.errors import (
    AuthenticationError,
    HubError,
    InvalidParameter,
    NetworkError,
    NotExistError,
    PermissionDeniedError,
)

from ekiben.contract import FetchFailed, FetchProgress, FetchRequest
from ekiben.contract.delivery import require_space, target_in
from ekiben.contract.repository import RepositoryFile, Selection, refuse_pickle

OWN: Final = ".modelscope"
"""The subfolder for the client's lock files; no file of the weights can have a name in it."""


def download(request: FetchRequest, selection: Selection, *, repo: str, revision: str) -> None:
    """Bring the files that are asked for. Raises FetchFailed; errors of the disk pass as they are."""
    api = _api(request.environment, cache=request.folder / OWN)
    try:
        files = selection.choose(_files(api, repo, revision))
        _bring(request, api, files, repo=repo, revision=revision)
    except HubError as error:
        if _is_of_the_disk(error):
            raise
        raise FetchFailed(_explain(error, repo=repo, revision=revision)) from error


def _api(environment: Mapping[str, str], *, cache: Path) -> HubApi:
    return HubApi(
        HubConfig(
            endpoint=environment.get("MODELSCOPE_ENDPOINT") or None,
            token=environment.get("MODELSCOPE_API_TOKEN") or None,
            cache_dir=cache,
        )
    )


def _files(api: HubApi, repo: str, revision: str) -> list[RepositoryFile]:
    listed = api.list_repo_files(repo, "model", revision=revision)
    return [
        RepositoryFile(path=file.path, size_bytes=file.size, sha256=file.sha256)
        for file in listed
        if not file.is_dir and file.path
    ]


def _bring(
    request: FetchRequest, api: HubApi, files: list[RepositoryFile], *, repo: str, revision: str
) -> None:
    """File by file; what an earlier try brought is checked and kept, by the client."""
    total_bytes = sum(file.size_bytes for file in files)
    done_bytes = 0
    for file in files:
        target = target_in(request.folder, file.path)
        there_bytes = sum(path.stat().st_size for path in target.parent.glob(f"{target.name}*"))
        require_space(request.folder, needed_bytes=file.size_bytes - there_bytes)

        def report(file_bytes: int, name: str = file.path, before: int = done_bytes) -> None:
            request.report(FetchProgress(done_bytes=before + file_bytes, total_bytes=total_bytes, file=name))

        report(0)
        api.downloader.download_file(
            repo,
            "model",
            file.path,
            revision=revision,
            cache_dir=request.folder / OWN,
            local_dir=request.folder,
            expected_sha256=file.sha256,
            file_size=file.size_bytes,
            progress_callbacks=[_counter(report)],
        )
        refuse_pickle(target)
        done_bytes += file.size_bytes
        report(file.size_bytes)


def _counter(report: Callable[[int], None]) -> type[ProgressCallback]:
    """A class, since the client makes an instance for each file."""

    class Counter(ProgressCallback):
        done_bytes = 0

        def update(self, size: int) -> None:
            self.done_bytes += size
            report(self.done_bytes)

    return Counter


def _is_of_the_disk(error: BaseException | None) -> bool:
    """Whether the error of a full or broken disk lies beneath, which is not the hub's."""
    while error is not None:
        if type(error) is OSError and error.errno is not None:
            return True
        error = error.__cause__ or error.__context__
    return False


def _explain(error: HubError, *, repo: str, revision: str) -> str:
    reason: Any = getattr(error, "message", None) or str(error)
    text = " ".join(str(reason).split())[:300]
    match error:
        case AuthenticationError() | PermissionDeniedError():
            return f"{repo!r} may not be read: set MODELSCOPE_API_TOKEN to a token that may ({text})"
        case NotExistError():
            return f"there is no {repo!r} with the revision {revision!r}, or it is private ({text})"
        case InvalidParameter():
            return f"{repo!r} is not the name of a repository: write owner/name ({text})"
        case NetworkError():
            return f"ModelScope cannot be reached: {text}; check the network and MODELSCOPE_ENDPOINT"
    return f"{repo!r} could not be downloaded: {text}"
