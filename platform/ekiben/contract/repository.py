"""Choosing files from a model repository, for the sources that speak to a hub.

Code is never taken, and neither are pickles, which run code when they are loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeVar

from ekiben.errors import FetchFailed

_PICKLES: Final = (
    "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.dill", "*.npy", "*.npz", "*.nemo",
    "pytorch_model*.bin", "adapter_model*.bin", "diffusion_pytorch_model*.bin", "training_args.bin",
    "optimizer.bin", "scheduler.bin", "consolidated*.bin", "*.pt.*", "*.pth.*",
)  # fmt: skip
_CODE: Final = ("*.py", "*.pyc", "*.so", "*.sh", "*.ipynb", "*.dll", "*.dylib", "*.exe", "*.bat")
_WEIGHTS: Final = ("*.safetensors", "*.gguf", "*.onnx", "*.bin", "*.tflite")
_DUPLICATES: Final = (
    "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.mlmodel", "onnx/*", "openvino/*", "coreml/*", "flax/*",
)  # fmt: skip
_CLUTTER: Final = (".*", "*/.*", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.mp4", "*.svg", "*.pdf")
_PICKLE_PROTOCOLS: Final = frozenset(b"\x80" + bytes([version]) for version in range(2, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFile:
    """A file as its hub lists it."""

    path: str
    """Relative to the repository, `/` between folders; not to be trusted."""
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None


_File = TypeVar("_File", bound=RepositoryFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files a spec asks for: one file, or those that match, of a folder of the repository."""

    file: str | None
    subfolder: str | None
    allow: tuple[str, ...] | None
    ignore: tuple[str, ...]

    @staticmethod
    def of(parameters: Mapping[str, Any]) -> Selection:
        """From the parameters `file`, `subfolder`, `allow` and `ignore`. Raises FetchFailed."""
        for name in ("allow", "ignore"):
            patterns = parameters.get(name) or ()
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise FetchFailed(f"{name!r} must be a list of patterns such as '*.json', not {patterns!r}")
        allow = parameters.get("allow")
        return Selection(
            file=parameters.get("file"),
            subfolder=(parameters.get("subfolder") or "").strip("/") or None,
            allow=None if allow is None else tuple(allow),
            ignore=tuple(parameters.get("ignore") or ()),
        )

    def choose(self, files: Sequence[_File]) -> list[_File]:
        """The files to bring, never empty. Raises FetchFailed when none is left that is safe to load."""
        wanted = [file for file in files if self._asks_for(file.path)]
        safe = [file for file in wanted if not _is_pickle(file.path) and not _matches(file.path, _CODE)]
        if not any(_matches(file.path, _WEIGHTS) for file in safe):
            self._explain(wanted)
        if self.file is None and self.allow is None:
            safe = _without_duplicates(safe)
        return sorted(safe, key=lambda file: file.path)

    def patterns(self) -> list[str] | None:
        """The same, roughly, as a hub's own library takes it; None: everything."""
        if self.file is not None:
            return [self.file]
        if self.subfolder is not None:
            return [f"{self.subfolder}/*"]
        return None if self.allow is None else list(self.allow)

    def loader_path(self, folder: Path) -> Path:
        """What engines get: the one file, or the folder of the repository that was asked for."""
        inside = self.file if self.file is not None else self.subfolder
        return folder / inside if inside else folder

    def _asks_for(self, path: str) -> bool:
        if self.file is not None:
            return path == self.file
        if self.subfolder is not None and not path.startswith(f"{self.subfolder}/"):
            return False
        if self.allow is not None and not _matches(path, self.allow):
            return False
        return not _matches(path, self.ignore)

    def _explain(self, wanted: Sequence[RepositoryFile]) -> None:
        """Raise for a selection without weights, except where the spec names exactly what it wants."""
        pickles = [file.path for file in wanted if _is_pickle(file.path)]
        if pickles:
            raise FetchFailed(
                f"the only weights there are {', '.join(sorted(pickles)[:3])}: pickles, which can run code "
                "when loaded; choose a revision or a repository with safetensors"
            )
        if not wanted or any(_matches(file.path, _CODE) for file in wanted):
            asked = self.file or self.subfolder or ", ".join(self.allow or ("*",))
            raise FetchFailed(f"the repository has no weights that match {asked!r}")
        if self.allow is None and self.file is None:
            raise FetchFailed("the repository has no weights in a format that is safe to load")


def refuse_pickle(path: Path) -> None:
    """Raise FetchFailed, and delete the file, if what came under another name is a pickle."""
    with path.open("rb") as file:
        start = file.read(2)
    zipped = start == b"PK" and zipfile.is_zipfile(path)
    if start not in _PICKLE_PROTOCOLS and not (zipped and _holds_pickle(path)):
        return
    path.unlink()
    raise FetchFailed(f"{path.name} is a pickle, which can run code when loaded: use safetensors instead")


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return True  # what cannot be looked into is not trusted


def _without_duplicates(files: list[_File]) -> list[_File]:
    """Leave out pictures, and where there are safetensors the same weights in other formats."""
    kept = [file for file in files if not _matches(file.path, _CLUTTER)]
    if any(_matches(file.path, ("*.safetensors",)) for file in kept):
        kept = [file for file in kept if not _matches(file.path, _DUPLICATES)]
    return kept


def _is_pickle(path: str) -> bool:
    return _matches(path.lower(), _PICKLES)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Patterns match the whole path, where `*` goes across `/`, or the file's name alone."""
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
