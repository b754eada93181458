"""What the gateway needs of the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from ekiben.contract.model import ModelSpec


class EntryView(Protocol):
    """A model of the catalog and where it came from."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def origin(self) -> str:
        """`builtin` or `user`."""

    @property
    def created_at(self) -> datetime: ...


class CatalogPort(Protocol):
    """Raises ModelNotFound for names that nobody knows."""

    def spec(self, name: str) -> ModelSpec:
        """By name or alias; cheap, since every request asks."""

    def entries(self) -> Sequence[EntryView]:
        """All of them, by name."""

    def get(self, name_or_alias: str) -> EntryView: ...

    def add(self, spec: ModelSpec) -> EntryView:
        """Kept for good when it returns. Raises Conflict."""

    def remove(self, name: str) -> None: ...
