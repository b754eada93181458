"""Which of a model's variants runs on this machine, and why: a pure function over what is known of each.

What an order (`prefer`) names is obeyed. Otherwise the best quality that fits: on a GPU before the host,
with the weights that are here before those that would have to be fetched; on the host, engines come in
the order of the spec, since there more bits are slower as well. Among equals the spec's order decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from ekiben.catalog.quality import bits_of, plain
from ekiben.contract.model import Preference, Variant

HOST: Final = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A variant, with what is known of it on this machine."""

    variant: Variant
    obstacle: str | None = None
    """Why its engine cannot run at all."""
    kinds: frozenset[str] = frozenset({HOST})
    """Of devices that its engine can use as it is installed."""
    spread: int = 1
    """Over so many devices of a kind it goes."""
    need_bytes: int | None = None
    """What it would hold on all of them together; None: not known before its first start."""
    here: bool = False
    """Whether all that it needs is on this machine."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one variant."""

    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A verdict for each of the variants."""

    index: int | None
    """Of the one that runs; None: none can."""
    verdicts: tuple[Verdict, ...]


class _Fit(IntEnum):
    YES = 0
    UNKNOWN = 1
    NO = 2
    NOWHERE = 3


@dataclass(frozen=True, slots=True)
class _Place:
    """How a candidate would lie on this machine, in numbers and in words."""

    fit: _Fit
    on_host: bool
    words: str


class _Rank(NamedTuple):
    """Smaller is better; the first difference decides, and is what is told."""

    fit: int
    lacks_adapters: bool
    on_host: bool
    absent: bool
    engine: int
    loss: float
    position: int


_FOR: Final = {
    "lacks_adapters": "it has all the adapters",
    "on_host": "it runs on a GPU",
    "absent": "its weights are here",
    "engine": "its engine comes first in the spec",
    "loss": "the best quality of those that fit",
    "position": "it comes first in the spec",
}
_AGAINST: Final = {
    "lacks_adapters": "it lacks adapters that the model has",
    "on_host": "it would run without a GPU",
    "absent": "its weights are not here, those of the chosen one are",
    "engine": "its engine comes later in the spec",
    "loss": "of lower quality than the chosen one",
    "position": "it comes later in the spec",
}


def choose(
    candidates: Sequence[Candidate],
    *,
    prefer: Preference,
    budgets: Mapping[str, int],
) -> Choice:
    """The best of the candidates, which are in the order of the spec.

    `budgets`: what may be held in all on each device that may be used; empty: nothing is known of them.
    """
    places = [_place(candidate, budgets) for candidate in candidates]
    ranks = {
        position: _rank(position, candidates, places[position])
        for position, candidate in enumerate(candidates)
        if candidate.obstacle is None and obeys(candidate.variant, prefer)
    }
    best = min(ranks, key=ranks.__getitem__, default=None)
    verdicts = [
        Verdict(position == best, _reason(position, best, candidate, prefer, places, ranks))
        for position, candidate in enumerate(candidates)
    ]
    return Choice(best, tuple(verdicts))


def as_json(choice: Choice) -> dict[str, Any]:
    """For `GET /api/models/{model}` and the command line."""
    verdicts = [{"chosen": verdict.chosen, "reason": verdict.reason} for verdict in choice.verdicts]
    return {"variant": choice.index, "variants": verdicts}


def obeys(variant: Variant, prefer: Preference) -> bool:
    """Whether it is one of those that an order names."""
    if prefer.engine is not None and variant.engine != prefer.engine:
        return False
    return prefer.quantization is None or plain(variant.quantization or "") == plain(prefer.quantization)


def _place(candidate: Candidate, budgets: Mapping[str, int]) -> _Place:
    """GPUs where the engine can use them, or else the host, as the fleet has it."""
    if not budgets:
        return _Place(_Fit.UNKNOWN, True, "what there is to run on is not known")
    kinds = {device.partition(":")[0] for device in budgets} & candidate.kinds
    gpus = sorted(kinds - {HOST})
    best: _Place | None = None
    for kind in gpus or sorted(kinds):
        place = _place_on(candidate, kind, budgets)
        if best is None or place.fit < best.fit:
            best = place
    if best is None:
        names = ", ".join(sorted(candidate.kinds))
        return _Place(_Fit.NOWHERE, True, f"its engine runs on {names} as it is installed, which is not here")
    return best


def _place_on(candidate: Candidate, kind: str, budgets: Mapping[str, int]) -> _Place:
    on_host, count = kind == HOST, 1 if kind == HOST else candidate.spread
    sizes = sorted(
        (size for device, size in budgets.items() if device.partition(":")[0] == kind), reverse=True
    )
    if len(sizes) < count:
        return _Place(
            _Fit.NOWHERE, on_host, f"it goes over {count} devices ({kind}), and there are {len(sizes)}"
        )
    if candidate.need_bytes is None:
        return _Place(_Fit.UNKNOWN, on_host, "what it needs is not known before its first start")
    share, budget = math.ceil(candidate.need_bytes / count), sizes[count - 1]
    each = f" on each of {count} devices ({kind})" if count > 1 else f" on {kind}"
    needs = f"needs about {_size(share)}{each}, where {_size(budget)} may be used"
    return _Place(_Fit.YES, on_host, needs) if share <= budget else _Place(_Fit.NO, on_host, needs)


def _rank(position: int, candidates: Sequence[Candidate], place: _Place) -> _Rank:
    candidate = candidates[position]
    adapters = {name for other in candidates for name in other.variant.adapters}
    engine, loss = 0, 0.0
    if place.fit is _Fit.YES:
        engines = [other.variant.engine for other in candidates]
        engine = engines.index(candidate.variant.engine) if place.on_host else 0
        loss = -(bits_of(candidate.variant) or 0.0)
    elif place.fit is _Fit.NO:
        loss = float(candidate.need_bytes or 0)
    return _Rank(
        fit=place.fit,
        lacks_adapters=not adapters <= candidate.variant.adapters.keys(),
        on_host=place.on_host,
        absent=not candidate.here,
        engine=engine,
        loss=loss,
        position=position,
    )


def _reason(
    position: int,
    best: int | None,
    candidate: Candidate,
    prefer: Preference,
    places: Sequence[_Place],
    ranks: Mapping[int, _Rank],
) -> str:
    place = places[position]
    if candidate.obstacle is not None:
        return candidate.obstacle
    if best is None or position not in ranks:
        return f"not the {_order(prefer)} that is preferred"
    if position == best:
        return _why(best, place, prefer, ranks)
    field = _difference(ranks[best], ranks[position])
    if field == "fit":
        return place.words if place.fit is not _Fit.NO else f"too large: {place.words}"
    if field == "loss" and place.fit is _Fit.NO:
        return f"too large, and larger than the chosen one: {place.words}"
    return _AGAINST[field]


def _why(best: int, place: _Place, prefer: Preference, ranks: Mapping[int, _Rank]) -> str:
    others = [rank for position, rank in ranks.items() if position != best]
    if not others:
        why = f"the {_order(prefer)} that is preferred" if _order(prefer) else "the only one that can run"
    elif place.fit is _Fit.NO:
        return f"nothing fits, and this needs least: {place.words}"
    else:
        field = _difference(ranks[best], min(others))
        why = "it is the one that fits" if field == "fit" else _FOR[field]
    return f"{why} ({place.words})"


def _order(prefer: Preference) -> str:
    given = (("engine", prefer.engine), ("quantization", prefer.quantization))
    return " and ".join(f"{what} {name!r}" for what, name in given if name is not None)


def _difference(better: _Rank, worse: _Rank) -> str:
    return next(
        name for name, first, second in zip(_Rank._fields, better, worse, strict=True) if first != second
    )


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
