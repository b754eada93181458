"""The hub, as huggingface_hub speaks to it: what a revision holds, and the bytes of a file.

Its errors become one sentence that says what to do.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

from ekiben.contract import FetchFailed
from ekiben.contract.repository import RepositoryFile

_CHUNK_BYTES: Final = 1 << 18
_OF_THE_LINE: Final = (ConnectionError, TimeoutError, socket.gaierror)


class Hub:
    """One revision of one repository."""

    def __init__(self, environment: Mapping[str, str], *, repo: str, revision: str) -> None:
        disable_progress_bars()
        # Its 10 MB would look like a stall on a slow line. This process is there for this fetch alone.
        constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
        self._endpoint = environment.get("HF_ENDPOINT") or None
        self._token = environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN") or None
        self._api = HfApi(endpoint=self._endpoint, token=self._token, library_name="ekiben")
        self._repo = repo
        self._revision = revision

    def files(self) -> list[RepositoryFile]:
        """What the revision holds. A branch or tag is pinned to its commit from here on."""
        with self._explained("listed"):
            info = self._api.repo_info(self._repo, revision=self._revision)
            self._revision = info.sha or self._revision
            tree = self._api.list_repo_tree(self._repo, revision=self._revision, recursive=True)
            return [_listed(entry) for entry in tree if isinstance(entry, RepoFile)]

    def download(self, file: RepositoryFile, output: BinaryIO, *, start: int) -> None:
        """Append what follows after `start` bytes; retries and resumes by itself when the line breaks."""
        url = hf_hub_url(self._repo, file.path, revision=self._revision, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token, library_name="ekiben")
        headers["Accept-Encoding"] = "identity"  # a range of a compressed body is not a range of the file
        with self._explained(f"downloaded ({file.path})"):
            http_get(url, output, resume_size=start, headers=headers, expected_size=file.size_bytes)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Raise what goes wrong inside as FetchFailed; errors of the disk pass as they are."""
        try:
            yield
        except FetchFailed:
            raise
        except Exception as error:
            # Any class at all: the HTTP library differs between versions of huggingface_hub.
            if isinstance(error, OSError) and error.errno is not None and not isinstance(error, _OF_THE_LINE):
                raise
            raise FetchFailed(self._explain(error, what)) from error

    def _explain(self, error: Exception, what: str) -> str:
        name = f"{self._repo!r}"
        match error:
            case GatedRepoError():
                return f"{name} is gated: accept its terms on its page, then set HF_TOKEN to a token of yours"
            case RepositoryNotFoundError():
                return f"there is no repository {name}, or it is private: check the name, or set HF_TOKEN"
            case RevisionNotFoundError():
                return f"{name} has no revision {self._revision!r}"
            case EntryNotFoundError():
                return (
                    f"{name} lists a file that the hub does not have: try again, or choose another revision"
                )
            case HFValidationError():
                return f"{name} is not the name of a repository: write owner/name"
            case HfHubHTTPError():
                status = error.response.status_code
                hint = "; check HF_TOKEN" if status in (401, 403) else ""
                return f"{name} could not be {what}: the hub answered {status}{hint}"
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return f"{name} could not be {what} from {self._api.endpoint}: {reason}"


def cached_snapshot(repo: str, *, revision: str, allow: list[str] | None) -> Path | None:
    """The folder of a revision in the cache of Hugging Face's libraries, if what is allowed is in it.

    Asks nobody. Where the cache is, the library tells from HF_HOME and its like.
    """
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=allow))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _listed(entry: RepoFile) -> RepositoryFile:
    return RepositoryFile(
        path=entry.path,
        size_bytes=entry.size,
        sha256=entry.lfs.sha256 if entry.lfs else None,
        git_sha1=None if entry.lfs else cast("str | None", entry.blob_id),
    )
