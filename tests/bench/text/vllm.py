"""vLLM through the platform, beside vLLM's own server with the same flags: cold, and under load.

Needs a home in which `ekiben engine install vllm` was run: `EKIBEN_BENCH_VLLM`, by default the one that
`make test-vllm` keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Bench, Row
from tests.bench.text import vllm_cold
from tests.bench.text.contest import contest
from tests.bench.text.load import Work
from tests.bench.text.vllm_servers import NAME, platform, server, wait_for_first_token
from tests.smollm2_folder import smollm2_folder

OURS: Final = "the platform"
OWN: Final = "vLLM's own server"
_TOKENS: Final = 64


def run(bench: Bench) -> Iterator[Row]:
    home = Path(os.environ.get("EKIBEN_BENCH_VLLM") or "~/.cache/ekiben-tests/vllm").expanduser()
    if not (home / "engines" / "vllm" / "current").exists():
        yield {"row": OWN, "unavailable": f"no vLLM in {home}: run `ekiben engine install vllm` there"}
        return
    folder = smollm2_folder()
    yield from vllm_cold.run(home, folder, rounds=bench.rounds)
    with platform(home, folder) as running, server(home, folder, stock=False) as (url, process):
        wait_for_first_token(running.url)
        wait_for_first_token(url, process)
        targets = {OURS: running.url, OWN: url}
        yield from contest("vllm", targets, Work(NAME, _TOKENS), ours=OURS, rival=OWN, runs=bench.rounds)
