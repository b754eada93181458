"""What the gateway needs of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    @property
    def problem(self) -> str | None:
        """Why the plugins that are here cannot run it."""


class BrokenView(Protocol):
    """A stored model that cannot be read."""

    @property
    def name(self) -> str: ...

    @property
    def reason(self) -> str: ...


class AliasView(Protocol):
    """A name that a user gave to a model."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str:
        """What it stands for: a model's name, or `model:adapter`."""

    @property
    def created_at(self) -> datetime: ...


class CatalogPort(Protocol):
    """Raises ModelNotFound for names that nobody knows."""

    def spec(self, name: str) -> ModelSpec:
        """By name or alias; cheap, since every request asks."""

    def meaning(self, name: str) -> str:
        """What an alias stands for that a user has set; any other name as it is. As cheap."""

    def aliases(self) -> Sequence[AliasView]:
        """Those that users have set, by name."""

    def set_alias(self, name: str, *, model: str) -> AliasView:
        """Kept for good when it returns. Blocks on the disk. Raises Conflict, ConfigError, ModelNotFound."""

    def remove_alias(self, name: str) -> None:
        """Gone for good when it returns. Blocks on the disk. Raises NotFound."""

    def entries(self) -> Sequence[EntryView]:
        """All of them, by name."""

    def broken(self) -> Sequence[BrokenView]: ...

    def get(self, name: str) -> EntryView:
        """By name or alias. Raises ConfigError for a broken one."""

    def add(self, spec: ModelSpec, *, replace: bool = False) -> EntryView:
        """Kept for good when it returns. Blocks on the disk. Raises Conflict and ConfigError."""

    def amend(self, name: str, change: Callable[[ModelSpec], ModelSpec]) -> EntryView:
        """Put a changed spec in the place of a model's. Blocks and raises as `add` does."""

    def remove(self, name: str) -> object:
        """Gone for good when it returns. Blocks on the disk. Raises Conflict for a built-in model."""
