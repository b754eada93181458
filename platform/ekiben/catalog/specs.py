"""Model specs from YAML: parsed, validated against the contract and the manifests of the plugins.

Every error names file, line and column. Nothing of a plugin is imported, and no store is touched.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ekiben.catalog.choice import obeys
from ekiben.catalog.document import MAX_CHARACTERS, MAX_PROBLEMS, Document, Problem, read_document
from ekiben.catalog.inspect import spec_from_path
from ekiben.catalog.templates import OPTION, template_problems, with_templates_read
from ekiben.contract.manifest import EngineSection
from ekiben.contract.manifest import problems as option_problems
from ekiben.contract.model import ModelSpec, Preference, SourceSpec, Variant
from ekiben.errors import ConfigError
from ekiben.plugins.discovery import Plugin, Plugins

SPEC_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


_PLAIN: Final = {
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "frozen_set_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
"""pydantic's kinds of errors, in the words of YAML."""


def parse_spec(text: str, *, filename: str, plugins: Plugins) -> ModelSpec:
    """The one spec that `text` holds. Raises ConfigError, one line for each problem."""
    return _only(parse_specs(text, filename=filename, plugins=plugins), filename)


def _only(specs: list[ModelSpec], filename: str) -> ModelSpec:
    if len(specs) != 1:
        raise ConfigError(f"{filename}:1:1: holds {len(specs)} specs where one is expected")
    return specs[0]


def parse_specs(text: str, *, filename: str, plugins: Plugins, folder: Path | None = None) -> list[ModelSpec]:
    """The specs that `text` holds: one mapping, or a list of them. Raises ConfigError as `parse_spec`.

    Relative paths in it count from `folder`, where chat templates are read, too; without one, none may be
    named by a path.
    """
    document = read_document(text, filename=filename)
    specs = _shaped(document)
    if folder is not None:
        specs = [_anchored(with_templates_read(spec, folder), folder) for spec in specs]
    alone = not isinstance(document.value, list)
    found = [
        Problem(problem.location if alone else (index, *problem.location), problem.text, problem.at_key)
        for index, spec in enumerate(specs)
        for problem in spec_problems(spec, plugins)
    ]
    names = Counter(spec.name for spec in specs)
    found += [
        Problem((index, "name"), f"{spec.name!r} is the name of more than one spec in this file")
        for index, spec in enumerate(specs)
        if names[spec.name] > 1
    ]
    if found:
        raise document.error(found)
    return specs


def load_spec_file(path: Path, *, plugins: Plugins) -> ModelSpec:
    """The one spec of a file, as `load_spec_files`."""
    specs = load_spec_files(path, plugins=plugins)
    return _only(specs, str(path))


def load_spec_files(path: Path, *, plugins: Plugins) -> list[ModelSpec]:
    """The specs of a file; relative paths of weights and templates in it count from its folder.

    Raises ConfigError as `parse_spec`, and when the file cannot be read.
    """
    return parse_specs(_read(path), filename=str(path), plugins=plugins, folder=path.absolute().parent)


def builtin_specs(plugins: Plugins) -> list[ModelSpec]:
    """The specs that come with the platform, by name; relative paths of weights count from their folder.

    They are not held against `plugins`: a plugin that somebody broke must not take the catalog along.
    `spec_problems` says what is wrong with one of them.
    """
    folder = resources.files("ekiben.catalog") / "builtin"
    specs: list[ModelSpec] = []
    for entry in folder.iterdir():
        if entry.name.endswith(".yaml"):
            document = read_document(entry.read_text(encoding="utf-8"), filename=entry.name)
            specs += [_anchored(spec, Path(str(folder))) for spec in _shaped(document)]
    return sorted(specs, key=lambda spec: spec.name)


def resolve_model(text: str, *, plugins: Plugins) -> ModelSpec:
    """The built-in model of that name or alias, or the spec in, or made from, the path that `text` is.

    For a Bento that is served alone: what a user added to a platform is not known here.
    """
    specs = builtin_specs(plugins)
    for spec in specs:
        if spec.answers_to(text):
            return spec
    if (path := _existing(text)) is not None:
        if path.is_file() and path.suffix.lower() in SPEC_SUFFIXES:
            return load_spec_file(path, plugins=plugins)
        return spec_from_path(path, plugins=plugins)
    names = [name for spec in specs for name in spec.names]
    raise ConfigError(
        f"{_short(text)} is neither a built-in model nor a path that exists{did_you_mean(text, names)} "
        f"(built in: {', '.join(spec.name for spec in specs)})"
    )


def _existing(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, or an unknown ~user
        return None


def spec_problems(spec: ModelSpec, plugins: Plugins) -> list[Problem]:
    """Why the plugins that are here cannot honour the spec; empty when they can."""
    found: list[Problem] = []
    for index, alias in enumerate(spec.aliases):
        if alias == spec.name or alias in spec.aliases[:index]:
            found.append(Problem(("aliases", index), f"{alias!r} is given twice"))
    found += _preference_problems(spec)
    found += template_problems(spec)
    for index, variant in enumerate(spec.variants):
        for problem in (*_engine_problems(spec, variant, plugins), *_sources_problems(variant, plugins)):
            found.append(Problem(("variants", index, *problem.location), problem.text, problem.at_key))
    return found


def _preference_problems(spec: ModelSpec) -> Iterator[Problem]:
    """An order that no variant can obey."""
    for name in ("engine", "quantization"):
        wanted = getattr(spec.prefer, name)
        known = list(dict.fromkeys(str(getattr(variant, name)) for variant in spec.variants))
        alone = Preference.model_validate({name: wanted})
        if wanted is not None and not any(obeys(variant, alone) for variant in spec.variants):
            text = f"{wanted!r} is that of no variant (there are: {', '.join(known)})"
            yield Problem(("prefer", name), text + did_you_mean(wanted, known))
            return
    if not any(obeys(variant, spec.prefer) for variant in spec.variants):
        yield Problem(("prefer",), "names an engine and a quantization that no variant has together")


def did_you_mean(text: str, known: Collection[str]) -> str:
    """`: did you mean 'x'?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(text[:200].lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    exact = next((name for name in known if near and name.lower() == near[0]), None)
    return f": did you mean {exact!r}?" if exact else ""


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:197] + "…")


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not a text file in UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _anchored(spec: ModelSpec, folder: Path) -> ModelSpec:
    variants = tuple(_anchored_variant(variant, folder) for variant in spec.variants)
    return spec.model_copy(update={"variants": variants})


def _anchored_variant(variant: Variant, folder: Path) -> Variant:
    def anchored(sources: Mapping[str, SourceSpec]) -> dict[str, SourceSpec]:
        return {name: _anchored_source(source, folder) for name, source in sources.items()}

    return variant.model_copy(
        update={
            "source": _anchored_source(variant.source, folder),
            "companions": anchored(variant.companions),
            "adapters": anchored(variant.adapters),
        }
    )


def _anchored_source(source: SourceSpec, folder: Path) -> SourceSpec:
    path = source.parameters.get("path")
    if source.kind != "local" or not isinstance(path, str) or path.startswith(("/", "~")):
        return source
    return SourceSpec.model_validate(
        {"kind": source.kind, **source.parameters, "path": os.path.normpath(folder / path)}
    )


def _shaped(document: Document) -> list[ModelSpec]:
    """The specs as far as their shape goes. Raises ConfigError."""
    value = document.value
    items: list[tuple[tuple[int, ...], Any]] = (
        [((index,), item) for index, item in enumerate(value)] if isinstance(value, list) else [((), value)]
    )
    if not items:
        raise document.error([Problem((), "the list is empty: it must hold model specs")])
    specs: list[ModelSpec] = []
    found: list[Problem] = []
    for prefix, item in items:
        if len(found) > MAX_PROBLEMS:
            break
        if not isinstance(item, dict):
            found.append(
                Problem(prefix, f"must be a model spec, a mapping with `name:` and more, not {item!r}")
            )
            continue
        try:
            specs.append(ModelSpec.model_validate(item))
        except ValidationError as error:
            # pydantic calls a list empty when all its items are wrong, which it has told already.
            details = [d for d in error.errors() if not (d["type"] == "too_short" and d["input"])]
            found += [_problem(prefix, detail) for detail in details[: MAX_PROBLEMS + 1]]
    if found:
        raise document.error(found)
    return specs


def _problem(prefix: tuple[int, ...], detail: ErrorDetails) -> Problem:
    location: tuple[str | int, ...] = (*prefix, *detail["loc"])
    kind, message, given = detail["type"], detail["msg"], detail["input"]
    if kind == "missing":
        return Problem(location, "is required")
    if kind == "extra_forbidden":
        known = _known_fields(detail["loc"])
        hint = did_you_mean(str(location[-1]), known)
        return Problem(location, f"is not known here (known: {', '.join(known)}){hint}", at_key=True)
    if kind == "value_error":
        if detail["loc"]:
            return Problem(location, f"is wrong: {message.removeprefix('Value error, ')}")
        return Problem((*location, "abilities"), f"do not fit: {message.removeprefix('Value error, ')}")
    text = _PLAIN.get(kind) or message.replace("Input should", "must")
    text = text[:1].lower() + text[1:]
    return Problem(location, text if isinstance(given, (dict, list)) else f"{text}, not {given!r}")


def _known_fields(location: tuple[str | int, ...]) -> list[str]:
    """The fields of the model in which the unknown key at `location` stands."""
    owners: dict[str | int, type[BaseModel]] = {"variants": Variant, "prefer": Preference}
    owner = owners.get(location[0], ModelSpec)
    return list(owner.model_fields)


def _engine_problems(spec: ModelSpec, variant: Variant, plugins: Plugins) -> list[Problem]:
    engines = plugins.engines()
    plugin = engines.get(variant.engine)
    if plugin is None or plugin.manifest.engine is None:
        return [Problem(("engine",), _unknown("engine", variant.engine, engines, plugins))]
    section = plugin.manifest.engine
    found = [
        Problem(("options", name), reason, at_key=name not in section.options)
        for name, reason in option_problems(section.options, variant.options)
    ]
    if variant.format not in section.formats:
        formats = ", ".join(section.formats)
        found.append(
            Problem(
                ("format",), f"must be one that {variant.engine} reads ({formats}), not {variant.format!r}"
            )
        )
    found += _extras_problems(variant, section)
    if spec.chat_template is not None and OPTION not in section.options:
        found.append(Problem(("engine",), f"{variant.engine!r} takes no chat_template, which this spec has"))
    if reason := _scope_problem(spec, section):
        found.append(Problem(("engine",), f"{variant.engine!r} does not fit: {reason}"))
    return found


def _extras_problems(variant: Variant, section: EngineSection) -> list[Problem]:
    """Companions and adapters that the engine has no use for."""
    known = section.companions
    reason = f"is nothing that {variant.engine} takes (known: {', '.join(known) or 'none'})"
    found = [
        Problem(("companions", name), reason + did_you_mean(name, known), at_key=True)
        for name in variant.companions
        if name not in known
    ]
    if variant.adapters and not section.adapters:
        text = f"cannot be served: {variant.engine} takes no adapters"
        found.append(Problem(("adapters",), text, at_key=True))
    return found


def _scope_problem(spec: ModelSpec, section: EngineSection) -> str | None:
    if spec.family not in section.families:
        return f"it runs models of the families {_words(section.families)}, not of {spec.family.value}"
    if strange := spec.abilities - set(section.abilities):
        return f"it cannot {_words(strange)}, only {_words(section.abilities)}"
    return None


def _sources_problems(variant: Variant, plugins: Plugins) -> Iterator[Problem]:
    """Of the weights, and of what comes with them."""
    places: list[tuple[tuple[str, ...], SourceSpec]] = [(("source",), variant.source)]
    places += [(("companions", name), source) for name, source in variant.companions.items()]
    places += [(("adapters", name), source) for name, source in variant.adapters.items()]
    for place, source in places:
        for problem in _source_problems(source, plugins):
            yield Problem((*place, *problem.location), problem.text, problem.at_key)


def _source_problems(source: SourceSpec, plugins: Plugins) -> list[Problem]:
    sources = plugins.sources()
    plugin = sources.get(source.kind)
    if plugin is None or plugin.manifest.source is None:
        return [Problem(("kind",), _unknown("source", source.kind, sources, plugins))]
    parameters = plugin.manifest.source.parameters
    return [
        Problem((name,), reason, at_key=name not in parameters)
        for name, reason in option_problems(parameters, source.parameters)
    ]


def _unknown(what: str, plugin_id: str, known: Mapping[str, Plugin], plugins: Plugins) -> str:
    for broken in plugins.broken:
        if broken.id == plugin_id:
            return f"names the plugin {plugin_id!r}, which cannot be used: {broken.reason}"
    names = ", ".join(sorted(known)) or "none"
    return f"{plugin_id!r} is not a known {what} (known: {names}){did_you_mean(plugin_id, known)}"


def _words(values: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, values)))
