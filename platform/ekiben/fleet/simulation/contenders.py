"""The policies by name, as a command line writes them: `greedy-dual`, `ttl:600`, `renewal:100`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ekiben.errors import ConfigError
from ekiben.fleet.policy.eviction import recency, seconds_saved_per_byte
from ekiben.fleet.policy.history import HALF_LIFE_S, History
from ekiben.fleet.policy.keep_alive import PRICE_BYTES, break_even_s, keep_alive_s
from ekiben.fleet.simulation.capped import Eviction
from ekiben.fleet.simulation.references import (
    HybridHistogram,
    clairvoyant_keep_alive,
    clairvoyant_worth,
    shortest_keep_alive,
)
from ekiben.fleet.simulation.scenario import Model
from ekiben.fleet.simulation.unbounded import KeepAlive, Stay

T = TypeVar("T")
GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Contender(Generic[T]):
    """How to make a rule, fresh for each run: some learn."""

    make: Callable[[float], T]
    default: float | None = None
    """What its number is if none is given; None if it takes none."""


EVICTIONS: Final[Mapping[str, Contender[Eviction]]] = {
    "lru": Contender(lambda _: Eviction(lambda resident, model, now: recency(resident))),
    "greedy-dual": Contender(
        lambda half_life_s: Eviction(
            lambda resident, model, now: seconds_saved_per_byte(resident), half_life_s
        ),
        HALF_LIFE_S,
    ),
    "ollama": Contender(lambda _: Eviction(shortest_keep_alive)),
    "clairvoyant": Contender(lambda _: Eviction(clairvoyant_worth)),
}
"""Rules under a cap, and what their number means: half-life in seconds."""

KEEP_ALIVES: Final[Mapping[str, Contender[KeepAlive]]] = {
    "ttl": Contender(lambda ttl_s: lambda model, history, idle_s: Stay(ttl_s), 300.0),
    "renewal": Contender(lambda price_gb: _renewal(price_gb * GB), PRICE_BYTES / GB),
    "hybrid-histogram": Contender(lambda _: HybridHistogram()),
    "clairvoyant": Contender(lambda price_gb: clairvoyant_keep_alive(price_gb * GB), PRICE_BYTES / GB),
}
"""Rules without a cap, and what their number means: seconds, or the price of a second's wait in GB."""


def contender(text: str, among: Mapping[str, Contender[T]]) -> Callable[[], T]:
    """Makes the rule that `name` or `name:number` stands for. Raises ConfigError."""
    name, colon, number_text = text.partition(":")
    if name not in among:
        raise ConfigError(f"there is no policy {name!r} for this: choose from {', '.join(among)}")
    chosen = among[name]
    if not colon:
        return lambda: chosen.make(chosen.default or 0.0)
    if chosen.default is None:
        raise ConfigError(f"policy {name!r} takes no number, but was given {number_text!r}")
    number = _positive(text, number_text)
    return lambda: chosen.make(number)


def _positive(text: str, number_text: str) -> float:
    try:
        number = float(number_text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(f"policy {text!r}: {number_text!r} is not a positive number")
    return number


def _renewal(price_bytes: float) -> KeepAlive:
    """The fleet's rule; what it said is remembered as long as the history stays the same."""
    said: dict[str, tuple[tuple[float, ...], Stay]] = {}

    def rule(model: Model, history: History, idle_s: float) -> Stay:
        known = said.get(model.name)
        if known is None or known[0] is not history.gaps_s:
            limit_s = break_even_s(
                size_bytes=model.size_bytes, cold_cost_s=model.cold_cost_s, price_bytes=price_bytes
            )
            known = history.gaps_s, Stay(keep_alive_s(history.gaps_s, break_even_s=limit_s))
            said[model.name] = known
        return known[1]

    return rule
