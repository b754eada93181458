"""Which plugins there are, read from entry points and manifests; nothing of a plugin is imported here.

An entry point of group `ekiben.plugins` maps a plugin's id to its package. The manifest lies in the
package, or, in an editable checkout, beside it. A plugin that cannot be used is kept with the reason,
so that it can be shown, and never takes others down.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from pydantic import ValidationError

from ekiben.contract.manifest import API_VERSION, Manifest, PluginKind
from ekiben.plugins.environments import (
    OWN_DISTRIBUTION,
    PLATFORM_INTERPRETER,
    Environments,
    Interpreter,
    Standing,
)

ENTRY_POINT_GROUP = "ekiben.plugins"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin whose manifest is in order. What it requires may still be missing: see `Plugins.standing`."""

    manifest: Manifest
    distribution: str
    version: str
    folder: Path
    """Where its manifest lies."""


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that cannot be used, and why."""

    id: str
    distribution: str
    reason: str
    uninstall: str | None = None
    """The distribution whose removal mends it, when it takes a name that is another's."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """What was found, and where it lives."""

    usable: Mapping[str, Plugin] = field(default_factory=dict)
    broken: tuple[BrokenPlugin, ...] = ()
    environments: Environments = field(default_factory=Environments)

    def standing(self, plugin: Plugin) -> Standing:
        """Whether it is installed, and where: as it is now."""
        return self.environments.standing(plugin.manifest)

    def interpreter(self, engine: str) -> Interpreter:
        """What runs the engine's replicas."""
        plugin = self.usable.get(engine)
        if plugin is None or plugin.manifest.engine is None:
            return PLATFORM_INTERPRETER
        return replace(self.standing(plugin).interpreter, asks=plugin.manifest.engine.variables)

    def engines(self) -> dict[str, Plugin]:
        return {i: p for i, p in self.usable.items() if p.manifest.kind is PluginKind.ENGINE}

    def sources(self) -> dict[str, Plugin]:
        return {i: p for i, p in self.usable.items() if p.manifest.kind is PluginKind.SOURCE}

    def policies(self) -> dict[str, Plugin]:
        return {i: p for i, p in self.usable.items() if p.manifest.kind is PluginKind.POLICY}

    def dialects(self) -> dict[str, Plugin]:
        return {i: p for i, p in self.usable.items() if p.manifest.kind is PluginKind.DIALECT}


def discover(home: Path | None = None) -> Plugins:
    """Look through the installed distributions. Reads files only; takes a few milliseconds.

    With a home, engines may live in environments of their own there.
    """
    found: dict[str, list[tuple[str, metadata.EntryPoint]]] = {}
    for entry_point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        distribution = (entry_point.dist.name if entry_point.dist else None) or "unknown"
        found.setdefault(entry_point.name, []).append((distribution, entry_point))
    usable: dict[str, Plugin] = {}
    broken: list[BrokenPlugin] = []
    for plugin_id, offers in sorted(found.items()):
        for result in _choose(plugin_id, offers):
            if isinstance(result, Plugin):
                usable[plugin_id] = result
            else:
                broken.append(result)
    return Plugins(usable, tuple(broken), Environments(home))


def _choose(
    plugin_id: str, offers: Iterable[tuple[str, metadata.EntryPoint]]
) -> Iterator[Plugin | BrokenPlugin]:
    """A name belongs to one distribution: to ours where it is ours, otherwise to none of several."""
    distinct = {(distribution, ep.value): ep for distribution, ep in offers}
    own = [offer for offer in distinct if offer[0] == OWN_DISTRIBUTION]
    owner = next(iter(own or distinct))
    if len(distinct) > 1 and not own:
        names = sorted(distribution for distribution, _ in distinct)
        reason = f"{plugin_id!r} is offered by {', '.join(names)}: uninstall all of them but one"
        yield BrokenPlugin(plugin_id, ", ".join(names), reason, uninstall=names[-1])
        return
    yield _look_at(plugin_id, *owner, distinct.pop(owner))
    for distribution, _ in sorted(distinct):
        reason = f"{plugin_id!r} is the name of a plugin of {OWN_DISTRIBUTION}: uninstall {distribution}"
        yield BrokenPlugin(plugin_id, distribution, reason, uninstall=distribution)


def _look_at(
    plugin_id: str, distribution: str, package: str, entry_point: metadata.EntryPoint
) -> Plugin | BrokenPlugin:
    try:
        manifest, folder = read_manifest(package)
    except (ImportError, OSError, ValueError) as error:
        return BrokenPlugin(plugin_id, distribution, _one_line(error))
    if manifest.id != plugin_id or manifest.package != package:
        reason = (
            f"its manifest says {manifest.id!r} in {manifest.package!r}, "
            f"its entry point says {plugin_id!r} in {package!r}"
        )
        return BrokenPlugin(plugin_id, distribution, reason)
    version = entry_point.dist.version if entry_point.dist else "unknown"
    return Plugin(manifest, distribution, version, folder)


def read_manifest(package: str) -> tuple[Manifest, Path]:
    """The manifest of a top-level package, and the folder it lies in. Raises OSError or ValueError."""
    if not package.isidentifier():  # of anything with a dot, the search would import the first part
        raise ValueError(f"its entry point must name a top-level package, not {package!r}")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package!r} cannot be found")
    home = Path(spec.origin).resolve().parent  # an engine's environment has links
    for folder in (home, home.parent):
        path = folder / "plugin.toml"
        if path.is_file():
            return parse_manifest(path), folder
    raise FileNotFoundError(f"there is no plugin.toml in {home} or beside it")


def parse_manifest(path: Path) -> Manifest:
    """Raises ValueError, with the file's name, when it is not a manifest."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        # Judged first: another version may well have other fields.
        if isinstance(api := table.get("api"), int) and api != API_VERSION:
            raise ValueError(
                f"written for API {api}, this platform has API {API_VERSION}: install a version that fits"
            )
        return Manifest.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path}: {where}: {first['msg']}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def load_object(plugin: Plugin) -> object:
    """Import the plugin and make its Engine, Source or Policy. Only for the processes that run plugins.

    Raises whatever the plugin raises.
    """
    module_name, _, attribute = plugin.manifest.object.partition(":")
    module = importlib.import_module(module_name)
    made: object = getattr(module, attribute)()
    return made


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
