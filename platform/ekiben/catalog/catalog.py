"""The catalog: built-in models and those that users added, by name and alias, and users' own aliases.

Asking is a look into a dict; adding and removing go to the store first and are on the disk when they
return. A stored model that cannot be honoured any more is kept and shown with the reason.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from pydantic import ValidationError

from ekiben.catalog.specs import builtin_specs, did_you_mean, spec_problems
from ekiben.clock import SYSTEM_CLOCK, Clock
from ekiben.contract.model import NAME_PATTERN, ModelSpec
from ekiben.errors import ConfigError, Conflict, ModelNotFound, NotFound
from ekiben.plugins.discovery import Plugins
from ekiben.store.aliases import AliasStore, StoredAlias
from ekiben.store.database import Database
from ekiben.store.models import ModelStore, StoredModel

BUILTIN_SINCE: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""When the built-in models count as created: clients want a date, the same one after every start."""


class Origin(StrEnum):
    BUILTIN = "builtin"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalog."""

    spec: ModelSpec
    origin: Origin
    created_at: datetime
    problem: str | None = None
    """Why the plugins that are here cannot honour the spec, for instance an engine that is gone."""


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """A stored model whose spec this version cannot read. It can be removed, or replaced."""

    name: str
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Index:
    """An immutable view, replaced as a whole at each change, so that readers need no lock."""

    by_name: Mapping[str, Entry] = field(default_factory=dict)
    by_any_name: Mapping[str, Entry] = field(default_factory=dict)
    """Aliases and adapters too; a model's own name wins over them, and a user's over a built-in one."""
    aliases: Mapping[str, StoredAlias] = field(default_factory=dict)
    """Those that users have set, whether or not what they stand for is there."""
    broken: Mapping[str, BrokenEntry] = field(default_factory=dict)


class Catalog:
    """All models that clients can name. May be used from any thread."""

    def __init__(self, database: Database, plugins: Plugins, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store = ModelStore(database)
        self._aliases = AliasStore(database)
        self._plugins = plugins
        self._clock = clock
        self._builtin = [
            Entry(spec, Origin.BUILTIN, BUILTIN_SINCE, self._problem(spec)) for spec in builtin_specs(plugins)
        ]
        self._changes = threading.Lock()
        self._index = _Index()
        self.reload()

    def entries(self) -> list[Entry]:
        """All models, by name."""
        return list(self._index.by_name.values())

    def broken(self) -> list[BrokenEntry]:
        """Stored models that cannot be read, by name."""
        return list(self._index.broken.values())

    def get(self, name: str) -> Entry:
        """By name or alias, without touching the disk. Raises ModelNotFound; ConfigError for a broken one."""
        index = self._index
        if (entry := index.by_any_name.get(name)) is not None:
            return entry
        if (broken := index.broken.get(name)) is not None:
            raise ConfigError(
                f"the stored spec of the model {name!r} cannot be read ({broken.reason}): "
                f"add it again, or remove it with `ekiben model rm {name}`"
            )
        if (alias := index.aliases.get(name)) is not None:
            raise ModelNotFound(
                f"the alias {name!r} stands for {alias.model!r}, which does not exist any more: "
                "set it to another model with `ekiben alias set`",
                param="model",
            )
        shown = name if len(name) <= 128 else name[:125] + "…"
        hint = did_you_mean(name, list(index.by_any_name)) if len(name) <= 128 else ""
        raise ModelNotFound(
            f"the model {shown!r} does not exist: list them with GET /v1/models or ekiben model ls{hint}",
            param="model",
        )

    def spec(self, name: str) -> ModelSpec:
        """The spec of `get`."""
        return self.get(name).spec

    def meaning(self, name: str) -> str:
        """What an alias stands for that a user has set; any other name as it is. Cheap."""
        alias = self._index.aliases.get(name)
        return name if alias is None else alias.model

    def aliases(self) -> list[StoredAlias]:
        """Those that users have set, by name."""
        return list(self._index.aliases.values())

    def set_alias(self, name: str, *, model: str) -> StoredAlias:
        """Let a name stand for a model, or for an adapter of one; it is on the disk when this returns.

        An alias of the same name gives way. Raises ConfigError for what cannot be a name, ModelNotFound,
        and Conflict when it is the name of something else.
        """
        if not NAME_PATTERN.fullmatch(name) or ".." in name:
            raise ConfigError(f"{name[:128]!r} cannot be an alias: use letters, digits and . _ : / -")
        with self._changes:
            entry, meant = self.get(model), self.meaning(model)
            meant = meant if entry.spec.adapter_of(meant) is not None else entry.spec.name
            index = self._index
            if name not in index.aliases and (name in index.by_any_name or name in index.broken):
                raise Conflict(f"{name!r} is taken: a model has that name: choose another")
            self._aliases.put(name, model=meant, now=self._clock.now())
            self._index = self._read()
        return self._index.aliases[name]

    def remove_alias(self, name: str) -> None:
        """Gone from the disk when this returns. Raises NotFound."""
        with self._changes:
            if not self._aliases.delete(name):
                raise NotFound(f"there is no alias {name[:128]!r}: list them with `ekiben alias ls`")
            self._index = self._read()

    def specs(self) -> Sequence[ModelSpec]:
        """The specs of `entries`."""
        return [entry.spec for entry in self._index.by_name.values()]

    def add(self, spec: ModelSpec, *, replace: bool = False) -> Entry:
        """Put a model into the catalog; it is on the disk when this returns.

        With `replace`, a model of the same name gives way: one that a user added for good, a built-in one
        for as long as this one is there. Raises ConfigError when the plugins cannot honour the spec,
        Conflict when a name is taken.
        """
        text = self._storable(spec)
        with self._changes:
            self._refuse_taken(spec, replace=replace)
            self._put(spec, text)
        return self._index.by_name[spec.name]

    def amend(self, name: str, change: Callable[[ModelSpec], ModelSpec]) -> Entry:
        """Put a changed spec in the place of a model's; of a built-in one, a user's copy is made.

        On the disk when this returns. Raises ModelNotFound, and as `add` does.
        """
        with self._changes:
            spec = change(self.get(name).spec)
            text = self._storable(spec)
            self._refuse_taken(spec, replace=True)
            if any(entry.spec == spec for entry in self._builtin):
                self._store.delete(spec.name)  # as it came: no copy is needed any more
                self._index = self._read()
            else:
                self._put(spec, text)
        return self._index.by_name[spec.name]

    def remove(self, name: str) -> Entry | BrokenEntry:
        """Take out a model that a user added, by name or alias; gone from the disk when this returns.

        A built-in model whose place it took is there again. Its weights stay.

        Raises ModelNotFound, and Conflict for a built-in model.
        """
        with self._changes:
            if name in self._index.aliases:
                raise Conflict(f"{name!r} is an alias: remove it with `ekiben alias rm`")
            broken = self._index.broken.get(name)
            removed = broken if broken is not None else self._removable(name)
            self._store.delete(removed.name if isinstance(removed, BrokenEntry) else removed.spec.name)
            self._index = self._read()
        return removed

    def reload(self) -> None:
        """Read the store again, for changes made by others."""
        with self._changes:
            self._index = self._read()

    def _storable(self, spec: ModelSpec) -> str:
        if problems := spec_problems(spec, self._plugins):
            raise ConfigError(f"the model {spec.name!r}: {'; '.join(map(str, problems))}")
        return _encode(spec)

    def _put(self, spec: ModelSpec, text: str) -> None:
        self._store.put(spec.name, spec=text, now=self._clock.now())
        self._index = self._read()

    def _removable(self, name: str) -> Entry:
        entry = self.get(name)
        if entry.origin is Origin.BUILTIN:
            raise Conflict(f"the model {entry.spec.name!r} is built in: only added models can be removed")
        return entry

    def _refuse_taken(self, spec: ModelSpec, *, replace: bool) -> None:
        index = self._index
        same = index.by_name.get(spec.name)
        if not replace and (spec.name in index.broken or (same and same.origin is Origin.USER)):
            raise Conflict(f"a model {spec.name!r} was added already: replace it, or choose another name")
        for name in spec.names:
            if name in index.aliases:
                raise Conflict(
                    f"{name!r} is taken: it is an alias of {index.aliases[name].model!r}: "
                    "remove it with `ekiben alias rm`, or choose another"
                )
            holder = index.by_any_name.get(name)
            if holder is None or (holder is same and (replace or same.origin is Origin.USER)):
                continue
            what = "built-in model" if holder.origin is Origin.BUILTIN else "model"
            as_what = "name" if name == holder.spec.name else "alias"
            if holder.spec.adapter_of(name) is not None:
                as_what = "adapter"
            raise Conflict(
                f"{name!r} is taken: it is the {as_what} of the {what} {holder.spec.name!r}: choose another"
            )

    def _read(self) -> _Index:
        added: list[Entry] = []
        broken: dict[str, BrokenEntry] = {}
        for row in self._store.all():
            try:
                spec = ModelSpec.model_validate_json(row.spec)
                added.append(Entry(spec, Origin.USER, row.created_at, self._problem(spec)))
            except ValidationError as error:
                broken[row.name] = _broken(row, error)
        return _index([*self._builtin, *added], broken, self._aliases.all())

    def _problem(self, spec: ModelSpec) -> str | None:
        return "; ".join(map(str, spec_problems(spec, self._plugins))) or None


def _index(
    entries: Sequence[Entry], broken: Mapping[str, BrokenEntry], aliases: Sequence[StoredAlias]
) -> _Index:
    """Later entries win: what a user added stays when a new version brings the same name."""
    by_name = {entry.spec.name: entry for entry in entries}
    names = {name: entry for entry in by_name.values() for name in entry.spec.names}
    known = names | by_name
    # A model that a new version brings may have the name of an alias: then that is what it is.
    own = {alias.name: alias for alias in aliases if alias.name not in by_name}
    stood_for = {alias.name: known[alias.model] for alias in own.values() if alias.model in known}
    return _Index(dict(sorted(by_name.items())), known | stood_for, own, broken)


def _broken(row: StoredModel, error: ValidationError) -> BrokenEntry:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return BrokenEntry(row.name, f"{where}: {first['msg']}" if where else first["msg"], row.created_at)


def _encode(spec: ModelSpec) -> str:
    """The spec as JSON that reads back to the same spec. Raises ConfigError."""
    try:
        text = json.dumps(spec.model_dump(mode="json", exclude_defaults=True), allow_nan=False)
        same = ModelSpec.model_validate_json(text) == spec
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise ConfigError(
            f"the model {spec.name!r} has values that cannot be stored: use plain texts and numbers"
        )
    return text
