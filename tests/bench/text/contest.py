"""Several servers of one model under the same load, turn by turn, and the rows that come of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.bench.cold.measure import Row, say, verdict
from tests.bench.text.load import Tally, Work, median_of, run

CLIENTS: Final = (1, 8, 32)
LEAST_RATE: Final = 0.97
MOST_FIRST: Final = 1.05


def contest(
    engine: str, targets: Mapping[str, str], work: Work, *, ours: str, rival: str, runs: int
) -> Iterator[Row]:
    """`targets`: URLs and sockets by name. The platform's numbers hold against `rival` at 32 at once."""
    first = 0
    for clients in CLIENTS:
        requests = clients * max(1, 8 // clients)
        tallies: dict[str, list[Tally]] = {name: [] for name in targets}
        for number in range(runs + 1):  # the first is thrown away
            for name, target in targets.items():
                tally = run(target, work, clients=clients, requests=requests, first=first)
                first += requests
                if number:
                    tallies[name].append(tally)
            last = ", ".join(
                f"{name} {each[-1].tokens_per_s:.0f}/s" for name, each in tallies.items() if each
            )
            say(f"  {engine}, {clients} at once, round {number} of {runs}: {last}")
        for name, each in tallies.items():
            yield _row(f"{engine}: {name}, {clients} at once", each)
        yield from _verdicts(engine, clients, tallies[ours], tallies[rival], rival=rival)


def _row(name: str, tallies: Sequence[Tally]) -> Row:
    return {
        "row": name,
        "tokens_per_s": round(statistics.median(tally.tokens_per_s for tally in tallies), 1),
        "first_token_ms": {f"p{share}": median_of(tallies, share / 100, gaps=False) for share in (50, 95)},
        "between_tokens_ms": {f"p{share}": median_of(tallies, share / 100, gaps=True) for share in (50, 95)},
        "runs": len(tallies),
    }


def _verdicts(
    engine: str, clients: int, ours: Sequence[Tally], theirs: Sequence[Tally], *, rival: str
) -> Iterator[Row]:
    pairs = list(zip(ours, theirs, strict=True))
    rate = round(statistics.median(a.tokens_per_s / b.tokens_per_s for a, b in pairs), 3)
    limit = {"at_least": LEAST_RATE, "held": rate >= LEAST_RATE} if clients == max(CLIENTS) else {}
    yield {"row": f"{engine}: throughput / {rival}, {clients} at once", "value": rate, **limit}
    firsts = [statistics.median(a.first_s) / statistics.median(b.first_s) for a, b in pairs]
    yield verdict(
        f"{engine}: first token / {rival}, {clients} at once",
        round(statistics.median(firsts), 3),
        at_most=MOST_FIRST if clients == max(CLIENTS) else None,
    )
