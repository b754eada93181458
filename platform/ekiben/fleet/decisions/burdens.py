"""What it costs to have a model and not to have it, from what is remembered of its runs."""

from __future__ import annotations

from ekiben.contract.model import ModelSpec
from ekiben.contract.policy import Idle, Policy
from ekiben.fleet.decisions.starts import cold_cost_s
from ekiben.fleet.policy.patterns import Burden
from ekiben.store.records import Records


class Burdens:
    """Asks the policy how long a model would stay by itself."""

    def __init__(self, records: Records, policy: Policy, *, keep_alive_s: float | None) -> None:
        """`keep_alive_s`: of models whose spec says nothing; None: the policy decides."""
        self._records = records
        self._policy = policy
        self._keep_alive_s = keep_alive_s

    def of(self, spec: ModelSpec) -> Burden | None:
        """None as long as it was never measured."""
        run = self._records.last_run(spec.name)
        need = None if run is None else self._records.need(run)
        cost_s = None if run is None else cold_cost_s(self._records.starts(run))
        if need is None or cost_s is None:
            return None
        size_bytes = sum(need.peak.values())
        kept_s = self._keep_alive_s if spec.keep_alive is None else spec.keep_alive
        if kept_s is None:
            uses = self._records.uses(spec.name)
            gaps_s = () if uses is None else uses.gaps_s
            kept_s = self._policy.keep_alive_s(Idle(spec.name, size_bytes, cost_s, gaps_s))
        return Burden(size_bytes=size_bytes, cold_cost_s=cost_s, keep_alive_s=kept_s)
