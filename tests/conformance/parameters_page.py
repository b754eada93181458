"""`platform/PARAMETERS.md`: a table for each endpoint, a row for each parameter, a column for each engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_HEAD: Final = """# What becomes of each parameter

Every parameter that OpenAI publishes is sent to every engine with a value that asks for something
(`tests/e2e/test_parameters.py`, which also writes this page). None is dropped:

- **honoured**: the answer shows it.
- refused: a 400 whose `param` names it. Neutral values (`null`, the published default) are accepted.
- hint: it tells of the caller or of costs, and asks for nothing that an answer could show.
"""
_ROW: Final = re.compile(r"^\| `(?P<name>[\w.]+)` \|(?P<cells>.*)\|$")


class ParametersPage:
    """Read from its file, and written back in the same form."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tables: dict[str, dict[str, dict[str, str]]] = {}
        """Endpoint, engine, parameter: outcome."""
        if path.exists():
            self._read(path.read_text())

    def compare(self, endpoint: str, engine: str, found: dict[str, str], *, writes: bool) -> None:
        """Fails where the page says something else of an engine that it knows; `writes`: take it over."""
        if writes:
            self._tables.setdefault(endpoint, {})[engine] = found
        said = self._tables.get(endpoint, {}).get(engine, found)
        assert said == found, f"platform/PARAMETERS.md is wrong about {endpoint} on {engine}"

    def write(self) -> None:
        parts = [_HEAD]
        for endpoint, engines in sorted(self._tables.items()):
            names = sorted(set().union(*engines.values()))
            parts.append(f"\n## {endpoint}\n\n| parameter | {' | '.join(sorted(engines))} |\n")
            parts.append("|---" * (len(engines) + 1) + "|\n")
            for name in names:
                cells = (_cell(engines[engine].get(name, "")) for engine in sorted(engines))
                parts.append(f"| `{name}` | {' | '.join(cells)} |\n")
        self._path.write_text("".join(parts))

    def _read(self, text: str) -> None:
        endpoint, engines = "", []
        for line in text.splitlines():
            if line.startswith("## "):
                endpoint = line.removeprefix("## ")
            elif line.startswith("| parameter |"):
                engines = [cell.strip() for cell in line.strip("|").split("|")[1:]]
            elif match := _ROW.match(line):
                cells = [cell.strip().strip("*") for cell in match["cells"].split("|")]
                for engine, cell in zip(engines, cells, strict=True):
                    if cell:
                        self._tables.setdefault(endpoint, {}).setdefault(engine, {})[match["name"]] = cell


def _cell(outcome: str) -> str:
    return f"**{outcome}**" if outcome == "honoured" else outcome
