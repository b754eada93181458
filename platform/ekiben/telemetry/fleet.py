"""What happened in the fleet, as metrics: starts and their stages, evictions, starts ahead of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ekiben.fleet.types import ModelStatus, State
from ekiben.fleet.witness import Witness

STAGES: Final = ("queued", "evicting", "fetching", "starting", "loading", "first_token")
_STAGES_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
READY: Final = "ready"


class FleetMetrics(Witness):
    """Written by the fleet. Models come from the catalog, stages, outcomes and reasons from the code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stages = Histogram(
            "ekiben_start_stage_seconds",
            "How long a stage of a model's start took",
            ["model", "stage"],
            buckets=_STAGES_S,
            registry=registry,
        )
        self._starts = Counter(
            "ekiben_starts_total",
            "Starts of replicas: ready, or the code of the error with which they failed",
            ["model", "outcome"],
            registry=registry,
        )
        self._evictions = Counter(
            "ekiben_evictions_total",
            "Replicas that went for another model (request), or so that the budget is kept (budget)",
            ["model", "reason"],
            registry=registry,
        )
        self._prewarms = Counter(
            "ekiben_prewarms_total",
            "Starts ahead of requests by what came of them",
            ["model", "trigger", "outcome"],
            registry=registry,
        )

    def started(self, model: str, stages_s: Mapping[str, float]) -> None:
        self._starts.labels(model, READY).inc()
        for stage in STAGES:
            if stage in stages_s:
                self._stages.labels(model, stage).observe(stages_s[stage])

    def failed(self, model: str, code: str) -> None:
        self._starts.labels(model, code).inc()

    def evicted(self, model: str, *, for_model: str) -> None:
        self._evictions.labels(model, "request" if for_model else "budget").inc()

    def prewarmed(self, model: str, *, trigger: str, outcome: str) -> None:
        """A model was started ahead of its requests, and it is certain what came of it."""
        self._prewarms.labels(model, trigger, outcome).inc()


class FleetView(Protocol):
    """What is asked of the fleet when metrics are read."""

    def snapshot(self) -> Sequence[ModelStatus]:
        """All models of the catalog."""

    def memory(self) -> Mapping[str, tuple[int | None, int]]:
        """By device: the budget, None without one, and what is held of it."""


class FleetGauges(Collector):
    """Counted when asked."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet

    def describe(self) -> Iterable[Metric]:
        """Asked at registration, when there may be no fleet yet."""
        return list(_families().values())

    def collect(self) -> Iterable[Metric]:
        models, replicas, budgets, held = _families().values()
        statuses = self._fleet.snapshot()
        of_replicas = [replica.state for status in statuses for replica in status.replicas]
        for state in State:
            models.add_metric([state.value], sum(status.state is state for status in statuses))
            replicas.add_metric([state.value], of_replicas.count(state))
        for device, (budget_bytes, held_bytes) in self._fleet.memory().items():
            if budget_bytes is not None:
                budgets.add_metric([device], budget_bytes)
            held.add_metric([device], held_bytes)
        return [models, replicas, budgets, held]


def _families() -> dict[str, GaugeMetricFamily]:
    described = {
        "ekiben_models": ("Models of the catalog by state", "state"),
        "ekiben_replicas": ("Processes that serve models, by state", "state"),
        "ekiben_memory_budget_bytes": ("What the platform may hold on a device", "device"),
        "ekiben_memory_held_bytes": ("What is set aside for replicas and zygotes on a device", "device"),
    }
    return {name: GaugeMetricFamily(name, text, labels=[label]) for name, (text, label) in described.items()}
