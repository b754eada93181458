"""The policies by name, as a command line writes them: a plugin's id, or `ttl:600`, `lru`, `clairvoyant`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from ekiben.contract.policy import Idle, Policy
from ekiben.errors import ConfigError
from ekiben.fleet.policy.history import History
from ekiben.fleet.simulation.capped import Standing
from ekiben.fleet.simulation.references import (
    HybridHistogram,
    clairvoyant_keep_alive,
    clairvoyant_worth,
    recency,
    shortest_keep_alive,
)
from ekiben.fleet.simulation.scenario import Model
from ekiben.fleet.simulation.unbounded import KeepAlive, Stay
from ekiben.plugins.discovery import Plugin, Plugins, load_object

T = TypeVar("T")
GB: Final = 1e9
PRICE_GB: Final = 550.0
"""For whoever knows the future: a second of waiting is worth so many GB held for a second."""


@dataclass(frozen=True, slots=True)
class Contender(Generic[T]):
    """How to make a rule, fresh for each run: some learn."""

    make: Callable[[float], T]
    default: float | None = None
    """What its number is if none is given; None if it takes none."""


def evictions(plugins: Plugins) -> Mapping[str, Contender[Standing]]:
    """Rules under a cap. None takes a number."""
    known: dict[str, Contender[Standing]] = {
        "lru": Contender(lambda _: recency),
        "ollama": Contender(lambda _: shortest_keep_alive),
        "clairvoyant": Contender(lambda _: clairvoyant_worth),
    }
    return known | {i: Contender(_eviction_of(plugin)) for i, plugin in plugins.policies().items()}


def keep_alives(plugins: Plugins) -> Mapping[str, Contender[KeepAlive]]:
    """Rules without a cap, and what their number means: seconds, or the price of a second's wait in GB."""
    known: dict[str, Contender[KeepAlive]] = {
        "ttl": Contender(_fixed, 300.0),
        "hybrid-histogram": Contender(lambda _: HybridHistogram()),
        "clairvoyant": Contender(lambda price_gb: clairvoyant_keep_alive(price_gb * GB), PRICE_GB),
    }
    return known | {i: Contender(_keep_alive_of(plugin)) for i, plugin in plugins.policies().items()}


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


def _fixed(ttl_s: float) -> KeepAlive:
    return lambda model, history, idle_s: Stay(ttl_s)


def _eviction_of(plugin: Plugin) -> Callable[[float], Standing]:
    def make(_: float) -> Standing:
        policy = cast(Policy, load_object(plugin))
        return lambda resident, model, now: policy.worth(resident)

    return make


def _keep_alive_of(plugin: Plugin) -> Callable[[float], KeepAlive]:
    return lambda _: asked(cast(Policy, load_object(plugin)))


def asked(policy: Policy) -> KeepAlive:
    """As the fleet asks: again only when something new is known of a model."""
    said: dict[str, tuple[tuple[float, ...], Stay]] = {}

    def rule(model: Model, history: History, idle_s: float) -> Stay:
        known = said.get(model.name)
        if known is None or known[0] is not history.gaps_s:
            idle = Idle(model.name, model.size_bytes, model.cold_cost_s, history.gaps_s)
            known = said[model.name] = history.gaps_s, Stay(policy.keep_alive_s(idle))
        return known[1]

    return rule
