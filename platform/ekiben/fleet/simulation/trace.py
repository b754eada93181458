"""Public traces as streams of arrivals: reads the files, draws what they leave to chance.

Two kinds, told apart by their columns: ServeGen's table of rates, one client a stream, whose arrivals
are drawn from the distribution of each window; and the Azure traces of single requests, which name no
clients and are dealt out to streams of unequal popularity.
"""

from __future__ import annotations

import csv
import gzip
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol, TextIO

from ekiben.errors import ConfigError

WINDOW_S: Final = 600.0
POPULARITY_EXPONENT: Final = 1.0
"""Zipf's: the n-th stream gets 1/n as many requests as the first."""


class Trace(Protocol):
    """Traffic that can be drawn again with another seed."""

    def streams(self, count: int, *, most_requests: int, rng: random.Random) -> dict[str, Sequence[float]]:
        """`count` streams by name, each with its arrivals in seconds, ascending; one that has more than
        about `most_requests` is thinned out to that. Raises ConfigError if there are fewer streams."""


@dataclass(frozen=True, slots=True)
class Window:
    """How requests come for ten minutes."""

    start_s: float
    rate_rps: float
    dist: str
    shape: float

    @property
    def expected(self) -> float:
        """How many requests it brings."""
        return self.rate_rps * WINDOW_S

    def arrivals(self, share: float, rng: random.Random) -> Iterator[float]:
        """Gaps of the right shape, stretched to fill the window; with a smaller share there are fewer."""
        count = math.floor(self.expected * share + rng.random())
        gaps = [self._gap(rng) for _ in range(count + 1)]
        total = sum(gaps)
        at = 0.0
        for gap in gaps[:-1]:
            at += gap / total if total > 0 else 0.0  # a shape may be so extreme that all its draws vanish
            yield self.start_s + min(at, 1.0) * WINDOW_S

    def _gap(self, rng: random.Random) -> float:
        if self.dist == "Gamma":
            return rng.gammavariate(self.shape, 1.0)
        return rng.weibullvariate(1.0, self.shape)


@dataclass(slots=True)
class RateTrace:
    """ServeGen: for each client the windows in which it sent anything."""

    clients: dict[str, list[Window]] = field(default_factory=dict)

    def streams(self, count: int, *, most_requests: int, rng: random.Random) -> dict[str, Sequence[float]]:
        if len(self.clients) < count:
            raise ConfigError(
                f"the trace has {len(self.clients)} streams, not {count}: ask for fewer models, or more hours"
            )
        names = rng.sample(sorted(self.clients), count)
        return {name: self._draw(self.clients[name], most_requests, rng) for name in names}

    def _draw(self, windows: Sequence[Window], most_requests: int, rng: random.Random) -> Sequence[float]:
        share = min(1.0, most_requests / sum(window.expected for window in windows))
        return sorted(at for window in windows for at in window.arrivals(share, rng))


@dataclass(slots=True)
class RequestTrace:
    """Azure: the moments of single requests."""

    arrivals_s: list[float] = field(default_factory=list)

    def streams(self, count: int, *, most_requests: int, rng: random.Random) -> dict[str, Sequence[float]]:
        dealt: list[list[float]] = [[] for _ in range(count)]
        weights = [1 / rank**POPULARITY_EXPONENT for rank in range(1, count + 1)]
        for at, hand in zip(
            self.arrivals_s, rng.choices(dealt, weights, k=len(self.arrivals_s)), strict=True
        ):
            hand.append(at)
        return {
            f"stream-{rank:03d}": sorted(rng.sample(arrivals, min(most_requests, len(arrivals))))
            for rank, arrivals in enumerate(dealt, start=1)
        }


def read_trace(path: Path, *, until_s: float = math.inf, workloads: Sequence[str] = ()) -> Trace:
    """The first `until_s` seconds of a trace; of these workloads only, if any are named."""
    try:
        with _opened(path) as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or ()
            if {"workload", "client", "t_s", "rate_rps", "dist", "shape"} <= {*columns}:
                return _read_rates(path, rows, until_s, workloads)
            if "TIMESTAMP" in columns:
                return _read_requests(path, rows, until_s)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a trace: {error}") from None
    raise ConfigError(f"{path} is no trace: it has neither the columns of ServeGen's rates nor of Azure's")


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _read_rates(path: Path, rows: csv.DictReader[str], until_s: float, workloads: Sequence[str]) -> RateTrace:
    trace = RateTrace()
    for row in rows:
        if workloads and row["workload"] not in workloads:
            continue
        try:
            window = _window(row)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}:{rows.line_num}: {error}") from None
        if window.start_s + WINDOW_S <= until_s:
            trace.clients.setdefault(f"{row['workload']}/{row['client']}", []).append(window)
    return trace


def _window(row: dict[str, str]) -> Window:
    window = Window(float(row["t_s"]), float(row["rate_rps"]), row["dist"], float(row["shape"]))
    if window.dist not in ("Gamma", "Weibull"):
        raise ValueError(f"dist must be 'Gamma' or 'Weibull', not {window.dist!r}")
    if not (
        0 < window.rate_rps < math.inf and 0 < window.shape < math.inf and 0 <= window.start_s < math.inf
    ):
        raise ValueError("t_s, rate_rps and shape must be positive numbers")
    return window


def _read_requests(path: Path, rows: csv.DictReader[str], until_s: float) -> RequestTrace:
    moments = []
    for row in rows:
        try:
            # seven decimals, which datetime does not take
            moments.append(datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}:{rows.line_num}: {error}") from None
    if not moments:
        raise ConfigError(f"{path}: the trace has no requests")
    moments.sort()
    arrivals = (moment - moments[0] for moment in moments)
    return RequestTrace([at for at in arrivals if at < until_s])
