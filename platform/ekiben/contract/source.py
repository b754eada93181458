"""The source protocol: how weights come from somewhere onto this machine.

A source runs in a worker process of its own, which the platform may kill at any moment; what it left in
its folder is there on the next try, so that downloads resume. The platform makes the result visible to
loaders only once `fetch` has returned, in one atomic step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """How far a fetch is. Totals are None while unknown."""

    done_bytes: int
    total_bytes: int | None = None
    file: str | None = None
    """The file under way, relative to the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """One set of weights to bring."""

    parameters: Mapping[str, Any]
    """The `source:` of the spec without `kind`, already validated against the manifest."""
    folder: Path
    """Where to put the files. Exists, and holds what an earlier, interrupted try left."""
    environment: Mapping[str, str]
    """The variables of the process: tokens, mirrors, proxies. Sources read them here only."""
    report: Callable[[FetchProgress], None]
    """Call it as often as there is news; it never blocks and may drop reports."""


class Source(Protocol):
    """A plugin that brings weights."""

    def fetch(self, request: FetchRequest) -> Path:
        """Bring the weights and return the file or folder that engines load. Blocking.

        The result lies in `request.folder`, or, for weights that are on this machine already, is their
        own path, which is then used in place and never written to. Verifies what it brought (hash, size)
        and raises `FetchFailed` with the reason and what to do. Never runs code that it downloaded.
        """
