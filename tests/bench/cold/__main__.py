"""`python -m tests.bench.cold [SECTION…]`: rows as JSON lines on stdout, progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.bench.cold import first_answers, first_token
from tests.bench.cold.measure import Bench, Row, say
from tests.bench.home import weights_home

Section = Callable[[Bench], Iterator[Row]]

SECTIONS: Final[dict[str, Section]] = {
    "first-token": first_token.run,
    "first-answers": first_answers.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(f"error: no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
        return 2
    weights = weights_home()
    cache = Path(os.environ.get("EKIBEN_BENCH_CACHE") or "~/.cache/ekiben-bench").expanduser().absolute()
    cache.mkdir(parents=True, exist_ok=True)
    for name in names or SECTIONS:
        say(f"{name}:")
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="ek-", ignore_cleanup_errors=True) as folder:
            for row in SECTIONS[name](Bench(Path(folder), weights, cache)):
                print(json.dumps({"section": name, **row}), flush=True)
        say(f"{name}: took {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
