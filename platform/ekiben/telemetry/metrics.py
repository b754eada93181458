"""The platform's metrics, in a registry of their own.

Labels are bounded: routes come from the routing table, models from the catalog, never from what a client
sent. Keys, prompts and addresses appear nowhere.
"""

from __future__ import annotations

import functools
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ekiben import __version__
from ekiben.telemetry.fleet import FleetGauges, FleetMetrics, FleetView

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
UNKNOWN_MODEL: Final = "unknown"
_DURATIONS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_WAITS_S: Final = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Written by the gateway and the fleet, rendered for `/metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.fleet = FleetMetrics(registry)
        """For the fleet to write to."""
        ProcessCollector(registry=registry)
        Gauge("ekiben_build_info", "Constant 1, with the version", ["version"], registry=registry).labels(
            __version__
        ).set(1)
        self._requests = Counter(
            "ekiben_requests_total",
            "Requests by their outcome; 499: the client left",
            ["route", "model", "status"],
            registry=registry,
        )
        self._durations = Histogram(
            "ekiben_request_duration_seconds",
            "From a request's head to the end of its answer",
            ["route", "model"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._first_bytes = Histogram(
            "ekiben_time_to_first_byte_seconds",
            "From a request's head to the head of its answer",
            ["route", "model"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._waits = Histogram(
            "ekiben_wait_seconds",
            "From the question for a lease to the lease; cold starts are in here",
            ["model"],
            buckets=_WAITS_S,
            registry=registry,
        )
        self._in_flight = Gauge("ekiben_in_flight", "Requests under way", registry=registry)
        # Looking children up by their labels costs more than writing to them.
        self._request_of = functools.cache(self._requests.labels)
        self._duration_of = functools.cache(self._durations.labels)
        self._first_byte_of = functools.cache(self._first_bytes.labels)
        self._wait_of = functools.cache(self._waits.labels)

    def watch(self, fleet: FleetView) -> None:
        """Count models, replicas and memory whenever the metrics are read."""
        self.registry.register(FleetGauges(fleet))

    def began(self) -> None:
        """A request came in."""
        self._in_flight.inc()

    def ended(
        self, route: str, *, model: str, status: int, duration_s: float, first_byte_s: float | None
    ) -> None:
        """Its exchange is over. `model`: the catalog's name, or empty."""
        self._in_flight.dec()
        name = model or UNKNOWN_MODEL
        self._request_of(route, name, str(status)).inc()
        self._duration_of(route, name).observe(duration_s)
        if first_byte_s is not None:
            self._first_byte_of(route, name).observe(first_byte_s)

    def waited(self, model: str, seconds: float) -> None:
        """A lease was granted."""
        self._wait_of(model).observe(seconds)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
