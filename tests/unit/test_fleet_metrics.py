"""What the fleet tells, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ekiben.fleet.types import ModelStatus, ReplicaStatus, State
from ekiben.fleet.witness import Audience, Witness
from ekiben.telemetry.metrics import Metrics

Samples = dict[tuple[str, ...], float]


class Fleet:
    def snapshot(self) -> Sequence[ModelStatus]:
        return [model("a", State.READY, "r1", "r2"), model("b", State.LOADING, "r3"), model("c", State.COLD)]

    def memory(self) -> Mapping[str, tuple[int | None, int]]:
        return {"cpu": (8_000, 5_000), "cuda:0": (None, 7)}


def model(name: str, state: State, *replicas: str) -> ModelStatus:
    nothing: dict[str, Any] = dict.fromkeys(
        ["progress", "eta_s", "memory_bytes", "unloads_in_s", "error", "retry_in_s"]
    )
    processes = [
        ReplicaStatus(
            id=each,
            model=name,
            state=state,
            pid=1,
            engine="e",
            address="",
            device="cpu",
            in_flight=0,
            memory_bytes=None,
            started_at="",
        )
        for each in replicas
    ]
    return ModelStatus(
        name=name,
        family="llm",
        state=state,
        stage="",
        in_flight=0,
        waiting=0,
        replicas=processes,
        **nothing,
    )


def read(metrics: Metrics, sample: str, *labels: str) -> Samples:
    """The samples of that name, by the values of these labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    samples = [s for family in families for s in family.samples if s.name == sample]
    return {tuple(s.labels[label] for label in labels): s.value for s in samples}


def test_each_stage_of_a_start_has_its_histogram() -> None:
    metrics = Metrics()
    metrics.fleet.started("m", {"starting": 0.4, "loading": 2.0, "first_token": 0.1})
    metrics.fleet.started("m", {"queued": 0.0, "starting": 0.6, "loading": 1.0})
    taken = read(metrics, "ekiben_start_stage_seconds_sum", "model", "stage")
    assert taken == {
        ("m", "queued"): 0.0,
        ("m", "starting"): 1.0,
        ("m", "loading"): 3.0,
        ("m", "first_token"): 0.1,
    }
    assert read(metrics, "ekiben_start_stage_seconds_count", "stage")[("loading",)] == 2
    assert read(metrics, "ekiben_starts_total", "model", "outcome") == {("m", "ready"): 2}


def test_a_stage_that_the_reference_does_not_know_makes_no_label() -> None:
    metrics = Metrics()
    metrics.fleet.started("m", {"daydreaming": 1.0, "loading": 1.0})
    assert set(read(metrics, "ekiben_start_stage_seconds_count", "stage")) == {("loading",)}


def test_failures_evictions_and_starts_ahead_are_counted() -> None:
    metrics = Metrics()
    metrics.fleet.failed("m", "model_load_failed")
    metrics.fleet.evicted("m", for_model="n")
    metrics.fleet.evicted("m", for_model="")
    metrics.fleet.prewarmed("m", trigger="pattern", outcome="used")
    assert read(metrics, "ekiben_starts_total", "outcome") == {("model_load_failed",): 1}
    assert read(metrics, "ekiben_evictions_total", "reason") == {("request",): 1, ("budget",): 1}
    assert read(metrics, "ekiben_prewarms_total", "trigger", "outcome") == {("pattern", "used"): 1}


def test_models_replicas_and_memory_are_counted_when_asked() -> None:
    metrics = Metrics()
    metrics.watch(Fleet())
    models = read(metrics, "ekiben_models", "state")
    assert (models[("ready",)], models[("loading",)], models[("failed",)]) == (1, 1, 0)
    replicas = read(metrics, "ekiben_replicas", "state")
    assert (replicas[("ready",)], replicas[("loading",)], replicas[("cold",)]) == (2, 1, 0)
    assert read(metrics, "ekiben_memory_budget_bytes", "device") == {("cpu",): 8_000}
    assert read(metrics, "ekiben_memory_held_bytes", "device") == {("cpu",): 5_000, ("cuda:0",): 7}


def test_every_witness_hears_everything() -> None:
    class Diary(Witness):
        def __init__(self) -> None:
            self.heard: list[object] = []

        def used(self, model: str) -> None:
            self.heard.append(("used", model))

        def intended(self, model: str) -> None:
            self.heard.append(("intended", model))

        def started(self, model: str, stages_s: Mapping[str, float]) -> None:
            self.heard.append(("started", model, stages_s))

        def failed(self, model: str, code: str) -> None:
            self.heard.append(("failed", model, code))

        def evicted(self, model: str, *, for_model: str) -> None:
            self.heard.append(("evicted", model, for_model))

    first, second = Diary(), Diary()
    audience = Audience(first, Witness(), second)
    audience.used("m")
    audience.intended("m")
    audience.started("m", {"loading": 1.0})
    audience.failed("m", "queue_full")
    audience.evicted("m", for_model="n")
    said = [name for name in vars(Witness) if not name.startswith("_")]
    assert [heard[0] for heard in first.heard if isinstance(heard, tuple)] == said
    assert first.heard == second.heard
