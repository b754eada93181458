"""YAML as plain values that remember where they stood, so that errors can name file, line and column.

Reads only what a spec needs: mappings with text keys, lists, scalars. Aliases, merges, tags, repeated
keys and hostile sizes are refused. What the values mean is not known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ekiben.errors import ConfigError

MAX_CHARACTERS: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
MAX_PROBLEMS: Final = 20
"""That are told at once."""
_LINE_CHARACTERS: Final = 500
_FORBIDDEN: Final = re.compile("[\x00-\x08\ud800-\udfff]")

Location = Sequence[str | int]
"""Keys and indexes that lead from the top to a value, as pydantic gives them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and with which value."""

    location: Location
    text: str
    at_key: bool = False
    """The key is what is wrong (it is not known), not its value."""

    def __str__(self) -> str:
        path = ".".join(map(str, self.location))
        return f"{path} {self.text}" if path else self.text


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file."""

    filename: str
    value: Any
    root: Node

    def error(self, problems: Sequence[Problem]) -> ConfigError:
        """One line for each problem, in the order of the file, each with file, line and column."""
        placed = sorted(
            ((*self._position(problem), str(problem)) for problem in problems), key=lambda line: line[:2]
        )
        lines = [
            f"{self.filename}:{line}:{column}: {_cut(text, _LINE_CHARACTERS)}"
            for line, column, text in placed[:MAX_PROBLEMS]
        ]
        if len(placed) > MAX_PROBLEMS:
            lines.append(f"{self.filename}: and more: mend these first")
        return ConfigError("\n".join(lines))

    def _position(self, problem: Problem) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of the location that the file has."""
        node, mark = self.root, self.root.start_mark
        for part in problem.location:
            found = _child(node, part)
            if found is None:
                break
            key, node = found
            mark = node.start_mark if isinstance(node, ScalarNode) and not problem.at_key else key.start_mark
        return mark.line + 1, mark.column + 1


def read_document(text: str, *, filename: str) -> Document:
    """Parse one YAML document. Raises ConfigError with file, line and column."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{filename}: longer than {MAX_CHARACTERS} characters, which no model spec needs")
    try:
        root = _compose(text)
        if root is None:
            raise ConfigError(f"{filename}:1:1: the file is empty: it must hold a model spec")
        return Document(filename, _Loader("").construct_document(root), root)
    except yaml.MarkedYAMLError as error:
        raise _at_mark(error, filename) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        reason = f"the character {chr(error.character)!a} is not allowed in YAML"
        raise ConfigError(f"{filename}:{line}:{column}: {reason}") from None


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that a spec has no use for."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """The safe loader without aliases and tags, of bounded depth, and with plain scalars only."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused("anchors and aliases are not used here: write the value out", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise _Refused(f"the tag {event.tag!r} is not used here: leave it out", event.start_mark)
        if self._depth == MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        if self._values == MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES} values, which no model spec needs", event.start_mark)
        self._values += 1
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_scalar_of(self, node: ScalarNode) -> Any:
        """A text, number, boolean or null that can be stored and sent as JSON."""
        # JSON writes what lies beyond 16 bits as two surrogates; a lone one stays, and is refused.
        node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        if _FORBIDDEN.search(node.value):
            raise _Refused("the text holds a control character or half a surrogate pair", node.start_mark)
        construct = yaml.SafeLoader.yaml_constructors[node.tag]
        try:
            value = construct(self, node)
        except ValueError:
            raise _Refused(f"{_short(node.value)} is not a value that can be read", node.start_mark) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(f"{node.value} is not a finite number", node.start_mark)
        return value


_SCALARS: Final = ("str", "int", "float", "bool", "null")
_Loader.yaml_constructors = {
    tag: _Loader.construct_scalar_of if name in _SCALARS else construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is not None and (name := tag.rpartition(":")[2]) in (*_SCALARS, "map", "seq")
}
_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, regex) for tag, regex in resolvers if tag.rpartition(":")[2] in _SCALARS])
}


def _compose(text: str) -> Node | None:
    root: Node | None = _Loader(text).get_single_node()
    if root is not None:
        _refuse_duplicates(root)
    return root


def _refuse_duplicates(root: Node) -> None:
    """Keys must be texts, each once in its mapping: YAML would let the last one win in silence."""
    for node in _walk(root):
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = _short(key.value) if isinstance(key, ScalarNode) else "a list or mapping"
                raise _Refused(f"a key must be a text, not {shown}: put it in quotes", key.start_mark)
            if key.value in seen:
                raise _Refused(f"the key {_short(key.value)} stands here twice", key.start_mark)
            seen.add(key.value)


def _walk(node: Node) -> Iterator[Node]:
    yield node
    if isinstance(node, MappingNode):
        for _, value in node.value:
            yield from _walk(value)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            yield from _walk(value)


def _child(node: Node, part: str | int) -> tuple[Node, Node] | None:
    """The key and the value that `part` names; a list's item is its own key."""
    if isinstance(node, MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _at_mark(error: yaml.MarkedYAMLError, filename: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    where = f"{filename}:{mark.line + 1}:{mark.column + 1}" if mark else filename
    context = f" {error.context}" if error.context else ""
    return ConfigError(f"{where}: {error.problem or 'not valid YAML'}{context}")


def _short(text: str) -> str:
    return repr(_cut(text, 60))


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
