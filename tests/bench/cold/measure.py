"""What a measurement is, how contenders take turns, and what a row says.

Contenders alternate within each round, so that a noisy machine disturbs all of them alike: compare ratios.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

ROUNDS: Final = 7

Row: TypeAlias = dict[str, Any]


class Unavailable(Exception):
    """A contender that cannot take part here, and why."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One cold start: how long until the answer, and what the time went into."""

    seconds: float
    stages_s: Mapping[str, float]


Shoot: TypeAlias = Callable[[], Shot]
"""Makes sure that it is cold, which is not timed, and then starts it and waits for its answer."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`open` brings up what may be there before the clock runs. Raises Unavailable."""

    name: str
    open: Callable[[], AbstractContextManager[Shoot]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every section is given."""

    folder: Path
    """Empty, and removed afterwards."""
    weights: Path
    """A home with the weights of the built-in models."""
    cache: Path
    """Kept from one run to the next: the environments of peers."""
    rounds: int = ROUNDS


def say(text: str) -> None:
    """Progress, beside the rows."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def alternate(contenders: Sequence[Contender], *, rounds: int) -> tuple[dict[str, list[Shot]], list[Row]]:
    """The shots of all, and a row for each contender that could not take part.

    One shot of each is thrown away first: it pays for what is paid once, such as compiled files.
    """
    shots: dict[str, list[Shot]] = {}
    absent: list[Row] = []
    with ExitStack() as stack:
        field: dict[str, Shoot] = {}
        for contender in contenders:
            say(f"  bringing up: {contender.name}")
            try:
                shoot = stack.enter_context(contender.open())
                shoot()
            except Unavailable as reason:
                say(f"  absent: {contender.name}: {reason}")
                absent.append({"row": contender.name, "unavailable": str(reason)})
                continue
            field[contender.name] = shoot
        for number in range(rounds):
            for name, shoot in field.items():
                shots.setdefault(name, []).append(shoot())
            last = ", ".join(f"{name} {each[-1].seconds:.2f} s" for name, each in shots.items())
            say(f"  round {number + 1} of {rounds}: {last}")
    return shots, absent


def row_of(name: str, shots: Sequence[Shot], **more: Any) -> Row:
    """The median, and the ledger: medians of the stages."""
    seconds = [shot.seconds for shot in shots]
    return {
        "row": name,
        "median_s": round(statistics.median(seconds), 3),
        "best_s": round(min(seconds), 3),
        "worst_s": round(max(seconds), 3),
        "stages_s": {
            stage: round(statistics.median(shot.stages_s.get(stage, 0.0) for shot in shots), 3)
            for stage in shots[0].stages_s
        },
        **more,
        "runs": len(shots),
    }


def rows_of(shots: Mapping[str, Sequence[Shot]]) -> Iterator[Row]:
    for name, each in shots.items():
        yield row_of(name, each)


def number(
    name: str, shots: Mapping[str, Sequence[Shot]], *, ours: str, theirs: str, at_most: float | None = None
) -> Iterator[Row]:
    """A ratio, that must hold if there is a limit; nothing when one of the two was absent.

    Of the medians, and beside it the median of the rounds' own ratios, which noise moves less.
    """
    if ours not in shots or theirs not in shots:
        return
    mine, others = ([shot.seconds for shot in shots[name]] for name in (ours, theirs))
    ratio = statistics.median(mine) / statistics.median(others)
    by_round = statistics.median(a / b for a, b in zip(mine, others, strict=True))
    yield verdict(name, round(ratio, 3), at_most=at_most, by_round=round(by_round, 3), runs=len(mine))


def verdict(name: str, value: float, *, at_most: float | None = None, **more: Any) -> Row:
    limit = {} if at_most is None else {"at_most": at_most, "held": value <= at_most}
    return {"row": name, "value": value, **limit, **more}


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
