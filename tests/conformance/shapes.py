"""Whether an object is what a `Shape` says: strictly, and without fields that nobody announced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import jsonschema
import pydantic

from tests.conformance.surface import EXTRAS, Shape

_PUBLISHED: Final = Path(__file__).parents[1] / "schemas" / "openai.json"
_MAX_PROBLEMS: Final = 3


def problems_of(value: Any, shape: Shape) -> list[str]:
    """What is wrong with it; empty when nothing is."""
    found: list[str] = []
    if shape.sdk is not None:
        found += _strict_problems(value, shape.sdk)
    if shape.component is not None:
        found += _component_problems(value, shape.component)
    if shape.schema is not None:
        found += _schema_problems(value, shape.schema)
    return found


def _strict_problems(value: Any, sdk: str) -> list[str]:
    try:
        parsed = _adapter(sdk).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        return [
            f"{sdk}: {'.'.join(map(str, details['loc']))}: {details['msg']}"
            for details in error.errors(include_url=False)[:_MAX_PROBLEMS]
        ]
    return [f"{sdk}: unknown field {name}" for name in _extras(parsed, "")]


@cache
def _adapter(sdk: str) -> pydantic.TypeAdapter[Any]:
    module, _, name = sdk.partition(":")
    name, _, parameter = name.partition("[")
    kind = getattr(import_module(module), name)
    if parameter:
        kind = kind[getattr(import_module("openai.types"), parameter.rstrip("]"))]
    return pydantic.TypeAdapter(kind)


def _extras(value: Any, where: str) -> Iterator[str]:
    """The fields that the types do not know and nobody announced, by their place."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _extras(item, f"{where}[{index}]")
    elif isinstance(value, pydantic.BaseModel):
        announced = EXTRAS.get(type(value).__name__, frozenset())
        for name in (value.model_extra or {}).keys() - announced:
            yield f"{where}.{name}"
        for name in type(value).model_fields:
            yield from _extras(getattr(value, name), f"{where}.{name}")


@cache
def published() -> dict[str, Any]:
    """The components of OpenAI's description, by name."""
    components: dict[str, Any] = json.loads(_PUBLISHED.read_text())["$defs"]
    return components


@cache
def _validator(component: str) -> jsonschema.Draft202012Validator:
    branches = [{"$ref": f"#/$defs/{name}"} for name in component.split("|")]
    return jsonschema.Draft202012Validator({"anyOf": branches, "$defs": published()})


_KNOWN: Final[dict[tuple[str, str], list[str]]] = {}
"""By component and form: one stream has hundreds of events of the same form."""


def _component_problems(value: Any, component: str) -> list[str]:
    key = (component, json.dumps(_form(value)))
    if key not in _KNOWN:
        _KNOWN[key] = [
            f"{component}: {problem}" for problem in map(_told, _validator(component).iter_errors(value))
        ]
    return _KNOWN[key]


def _schema_problems(value: Any, schema: Mapping[str, Any]) -> list[str]:
    return [_told(error) for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def _told(error: jsonschema.ValidationError) -> str:
    """Of the branches of a union, the one that the value came closest to."""
    while branches := _by_branch(error):
        error = min(branches.values(), key=_distance)[0]
    return f"{error.json_path}: {error.message[:300]}"


def _by_branch(error: jsonschema.ValidationError) -> dict[Any, list[jsonschema.ValidationError]]:
    branches: dict[Any, list[jsonschema.ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.schema_path[0], []).append(inner)
    return branches


def _distance(errors: list[jsonschema.ValidationError]) -> tuple[bool, int]:
    """A branch is another one altogether where not even the value's `type` fits."""
    return any(error.path and error.path[-1] == "type" for error in errors), len(errors)


def _form(value: Any, key: str = "") -> Any:
    """The value with everything replaced by its kind that no schema looks into."""
    if isinstance(value, dict):
        return {name: _form(item, name) for name, item in value.items()}
    if isinstance(value, list):
        forms = {json.dumps(_form(item, key)): None for item in value}
        return list(forms)
    if isinstance(value, str):
        return value if key in _told_apart() else "a text" if value else ""
    if isinstance(value, bool) or value is None:
        return value
    return [type(value).__name__, (value > 0) - (value < 0)]


@cache
def _told_apart() -> frozenset[str]:
    """The names of properties whose texts some schema lists."""
    return frozenset(_listed(published(), ""))


def _listed(schema: Any, name: str) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _listed(item, name)
    elif isinstance(schema, dict):
        if "enum" in schema or "const" in schema:
            yield name
        for key, item in schema.items():
            if key == "$ref" and isinstance(item, str):
                target = published()[item.removeprefix("#/$defs/")]
                if "enum" in target or "anyOf" in target:
                    yield name
            elif key == "properties":
                for property_name, property_schema in item.items():
                    yield from _listed(property_schema, property_name)
            else:
                yield from _listed(item, name)
