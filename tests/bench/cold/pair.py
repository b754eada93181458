"""Two models of the same weights under two names, and a platform that has room for one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.cold import ekiben
from tests.bench.cold.measure import Bench, say
from tests.bench.cold.questions import Chat
from tests.bench.home import MODEL, weights_of
from tests.running import Platform

FIRST: Final = "first"
SECOND: Final = "second"
_ROOM: Final = 1.5
"""Of what one takes: enough for one, too little for two."""


@contextmanager
def room_for_one(bench: Bench, name: str) -> Iterator[Platform]:
    """Both models have run once, alone: what they take is known."""
    weights = weights_of(MODEL, bench.weights)
    with ekiben.platform(bench, f"{name}-probe") as probe:
        Chat(MODEL)(probe.url)
        needed = int(probe.model(MODEL)["memory_bytes"])
    budget = f"cpu={int(needed * _ROOM / 2**20)}MiB"
    say(f"  one takes {needed / 10**6:.0f} MB, the budget is {budget}")
    with ekiben.platform(bench, name, EKIBEN_MEMORY=budget) as running:
        for model in (FIRST, SECOND):
            add(running, model, weights, folder=bench.folder / name)
            Chat(model)(running.url)
            running.post(f"/api/models/{model}/stop")
        yield running


def add(running: Platform, name: str, weights: Path, *, folder: Path) -> None:
    """The same file under another name."""
    link = folder / f"{name}.gguf"
    link.symlink_to(weights)
    answer = running.post("/api/models", {"path": str(link)})
    assert answer.get("error") is None, answer
