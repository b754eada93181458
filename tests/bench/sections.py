"""Benchmarks of several sections: rows as JSON lines on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.cold.measure import ROUNDS, Bench, Row, say
from tests.bench.home import weights_home

Section = Callable[[Bench], Iterator[Row]]


def main(program: str, sections: Mapping[str, Section], arguments: Sequence[str]) -> int:
    """`[--rounds N] [SECTION…]`: the exit code, 1 when a section broke down."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)}; default: all"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.sections if name not in sections]:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(sections)}")
    weights = weights_home()
    cache = Path(os.environ.get("EKIBEN_BENCH_CACHE") or "~/.cache/ekiben-bench").expanduser().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    names = asked.sections or sections
    results = [
        _run(name, sections[name], weights=weights, cache=cache, rounds=asked.rounds) for name in names
    ]
    return 0 if all(results) else 1


def _run(name: str, section: Section, *, weights: Path, cache: Path, rounds: int) -> bool:
    """A section that breaks down is a row that says so; the others go on."""
    say(f"{name}:")
    started = time.perf_counter()
    whole = True
    with tempfile.TemporaryDirectory(prefix="ek-", ignore_cleanup_errors=True) as folder:
        try:
            for row in section(Bench(Path(folder), weights, cache, rounds)):
                _print({"section": name, **row})
        except Exception as error:  # noqa: BLE001 - of any kind, a peer's too
            traceback.print_exc()
            _print({"section": name, "row": name, "failed": f"{type(error).__name__}: {error}"})
            whole = False
    say(f"{name}: took {time.perf_counter() - started:.0f} s")
    return whole


def _print(row: Row) -> None:
    print(json.dumps(row), flush=True)
