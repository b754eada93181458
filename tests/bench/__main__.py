"""`python -m tests.bench [NAME…]`: run benchmarks, print one JSON object a line.

Times are medians of several runs; compare ratios, since machines are noisy. Cold starts have a run of
their own, `tests.bench.cold`, since they take long and are measured beside others.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import (
    batching,
    decisions,
    gateway_overhead,
    idle,
    installed_size,
    start_up,
    stopped,
    throughput,
)
from tests.bench.home import weights_home

Benchmark = Callable[[Path, Path], Iterator[dict[str, Any]]]

BENCHMARKS: dict[str, Benchmark] = {
    "start-up": start_up.run,
    "idle": idle.run,
    "decisions": decisions.run,
    "gateway-overhead": gateway_overhead.run,
    "throughput": throughput.run,
    "batching": batching.run,
    "installed-size": installed_size.run,
    "stopped": stopped.run,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"error: no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
        return 2
    weights = weights_home()
    for name in names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="ekiben-bench-") as folder:
            for row in BENCHMARKS[name](Path(folder), weights):
                print(json.dumps({"benchmark": name, **row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
