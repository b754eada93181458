"""How large a JSON schema may be.

Engines turn schemas into grammars and try their alternatives for every token, some of them in the one loop
that serves everybody: there are patterns that keep such a loop busy for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ekiben.errors import InvalidRequest

MAX_PARTS: Final = 4096
"""Objects and lists of a schema."""
MAX_ALTERNATIVES: Final = 512
"""Entries of all `enum`, `anyOf` and `oneOf`."""
MAX_PATTERN: Final = 256
"""Characters of all patterns."""
MAX_REPEATS: Final = 64
"""Sum of the numbers in `{2,5}` of all patterns."""

_CHOICES: Final = ("enum", "anyOf", "oneOf", "type")
_BRACES: Final = re.compile(r"\{([\d,\s]+)\}")


def check_schema(schema: Any, param: str) -> None:
    """Raises InvalidRequest when it is larger than what can be followed quickly."""
    alternatives = length = repeats = 0
    for count, part in enumerate(_parts(schema)):
        if isinstance(part, Mapping):
            alternatives += sum(len(part[key]) for key in _CHOICES if isinstance(part.get(key), list))
            if isinstance(pattern := part.get("pattern"), str):
                length += len(pattern)
                repeats += sum(_largest(braces) for braces in _BRACES.findall(pattern))
        _require(count < MAX_PARTS, f"has more than {MAX_PARTS} parts", param)
    _require(alternatives <= MAX_ALTERNATIVES, f"has more than {MAX_ALTERNATIVES} alternatives", param)
    _require(length <= MAX_PATTERN, f"has more than {MAX_PATTERN} characters of patterns", param)
    _require(repeats <= MAX_REPEATS, f"repeats more than {MAX_REPEATS} times in its patterns", param)


def _require(fits: bool, excess: str, param: str) -> None:
    if not fits:
        raise InvalidRequest(f"the schema {excess}: make it simpler", param=param)


def _parts(schema: Any) -> Iterator[Any]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            yield part
            waiting += part


def _largest(braces: str) -> int:
    return max((int(number[:9]) for number in re.findall(r"\d+", braces)), default=0)
