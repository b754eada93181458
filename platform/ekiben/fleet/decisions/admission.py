"""Whether a model may have the memory that it needs, and who goes for it: pure functions.

A verdict is reached before anybody is harmed: either the memory is free, or there is a plan that frees
enough, or nobody is asked to go. Memory that is on its way to a claim that came earlier is no longer
free for the ones after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ekiben.contract.policy import Resident
from ekiben.fleet.decisions.ledger import Memory, Place, in_words, relieve
from ekiben.fleet.policy.victims import victims

Worth: TypeAlias = Callable[[Resident], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds memory, as a claim sees it."""

    account: str
    name: str
    memory: Memory
    leaving: bool = False
    """It goes anyway."""
    fixed: bool = False
    """It never goes for this claim."""
    movable_at: float = 0.0
    """Before that it stays; infinity: until something changes."""
    last_resort: bool = False
    """It goes only where all others are not enough."""
    busy: bool = False
    service_s: float = 0.0
    """How long its requests take."""
    rate: float = 0.0
    cold_cost_s: float = 0.0
    last_use_s: float = 0.0
    idle_s: float = 0.0
    gaps_s: tuple[float, ...] = ()

    def resident(self, devices: Iterable[str]) -> Resident:
        """As a policy sees it, on the devices where memory is wanted."""
        return Resident(
            name=self.name,
            size_bytes=sum(self.memory.get(device, 0) for device in devices),
            cold_cost_s=self.cold_cost_s,
            rate=self.rate,
            last_use_s=self.last_use_s,
            idle_s=self.idle_s,
            gaps_s=self.gaps_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who wants memory."""

    name: str
    places: tuple[Place, ...]
    """Each with a need that is known."""
    since: float
    may_evict: bool = True
    """Whether others may go for it."""


@dataclass(frozen=True, slots=True)
class Admit:
    """The memory is free."""

    place: Place


@dataclass(frozen=True, slots=True)
class Evict:
    """It will be, once these accounts are closed."""

    place: Place
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before, unless something changes."""

    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Refuse:
    """It can never fit, for this reason."""

    reason: str


Verdict: TypeAlias = Admit | Evict | Wait | Refuse


def decide(
    claim: Claim,
    *,
    free: Callable[[str], float],
    budget: Callable[[str], float],
    holders: Sequence[Holder],
    worth: Worth,
    w_max_s: float,
    now: float,
) -> Verdict:
    """The best that can be done for a claim now. `free` and `holders` leave out what earlier claims have."""
    for place in claim.places:
        if not _lacking(place, free):
            return Admit(place)
    reasons = [_never(place, budget, holders) for place in claim.places]
    if all(reasons):
        return Refuse("; ".join(reason for reason in reasons if reason))
    if not claim.may_evict:
        return Wait()
    possible = [place for place, reason in zip(claim.places, reasons, strict=True) if reason is None]
    verdicts = [
        _make_room(claim, place, free=free, holders=holders, worth=worth, w_max_s=w_max_s, now=now)
        for place in possible
    ]
    plans = [verdict for verdict in verdicts if isinstance(verdict, Evict)]
    if plans:
        return min(plans, key=lambda plan: len(plan.accounts))
    return min((v for v in verdicts if isinstance(v, Wait)), key=lambda wait: wait.until, default=Wait())


def plan_of(holders: Iterable[Holder], lacking: Memory, worth: Worth) -> tuple[Holder, ...] | None:
    """Who of them must go so that nothing is lacking, as `victims` has it."""
    return victims(
        holders,
        lacking,
        memory=lambda holder: holder.memory,
        worth=lambda holder: (holder.last_resort, worth(holder.resident(lacking)), holder.account),
    )


def _make_room(
    claim: Claim,
    place: Place,
    *,
    free: Callable[[str], float],
    holders: Sequence[Holder],
    worth: Worth,
    w_max_s: float,
    now: float,
) -> Evict | Wait:
    """First those who go anyway, then the idle ones, and after the longest fair wait the busy ones too."""
    leaving = [holder for holder in holders if holder.leaving]
    short = _lacking(place, free)
    lacking = relieve(short, (holder.memory for holder in leaving))
    going = tuple(holder.account for holder in leaving if any(holder.memory.get(d) for d in short))
    staying = [holder for holder in holders if not holder.leaving and not holder.fixed]
    idle = [holder for holder in staying if not holder.busy and holder.movable_at <= now]
    plan = plan_of(idle, lacking, worth)
    if plan is not None:
        return Evict(place, going + tuple(holder.account for holder in plan))
    soon = min((holder.movable_at for holder in staying if holder.movable_at > now), default=math.inf)
    plan = plan_of((holder for holder in staying if holder.movable_at <= now), lacking, worth)
    if plan is None:
        return Wait(soon)
    # Their requests have to end first: they are asked to go that much earlier.
    head_start_s = min(w_max_s, max((holder.service_s for holder in plan if holder.busy), default=0.0))
    fair_at = claim.since + w_max_s - head_start_s
    if now >= fair_at:
        return Evict(place, going + tuple(holder.account for holder in plan))
    return Wait(min(soon, fair_at))


def _lacking(place: Place, free: Callable[[str], float]) -> dict[str, int]:
    assert place.need is not None, "a claim is decided on once its need is known"
    short = {device: size - free(device) for device, size in place.need.items()}
    return {device: math.ceil(size) for device, size in short.items() if size > 0}


def _never(place: Place, budget: Callable[[str], float], holders: Sequence[Holder]) -> str | None:
    """Why it cannot fit there even if everybody goes who can; None when it can."""
    assert place.need is not None, "a claim is decided on once its need is known"
    for device, size in place.need.items():
        if size > budget(device):
            return (
                f"it needs {in_words(size)} on {device}, where {in_words(budget(device))} may be used in all"
            )
        fixed = [holder for holder in holders if holder.fixed and holder.memory.get(device)]
        held = sum(holder.memory[device] for holder in fixed)
        if size > budget(device) - held:
            names = ", ".join(sorted({repr(holder.name) for holder in fixed}))
            return (
                f"it needs {in_words(size)} on {device}, where of {in_words(budget(device))} "
                f"{in_words(held)} is kept for {names}"
            )
    return None
