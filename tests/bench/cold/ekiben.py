"""The platform as a contender: its models are cold, their engine's zygote is warm where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tests.bench.cold.measure import Bench, Contender, Shoot, Shot, seconds_of
from tests.bench.cold.questions import Ask
from tests.running import Platform

SPAWNED: Final = {"EKIBEN_ZYGOTE": "off"}


@contextmanager
def platform(bench: Bench, name: str, **env: str) -> Iterator[Platform]:
    """A platform with a home of its own, and the shared weights."""
    running = Platform(bench.folder / name, bench.weights / "weights", env=env).start()
    try:
        yield running
    finally:
        running.stop()


def add(running: Platform, spec: dict[str, Any]) -> None:
    answer = running.post("/api/models", {"spec": spec})
    assert answer.get("error") is None, answer


def cold(
    bench: Bench,
    name: str,
    *,
    model: str,
    ask: Ask,
    spec: dict[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Contender:
    """A request to a cold model, with the stages that the replica tells of.

    `spec`: of a model that is not in the catalog.
    """

    @contextmanager
    def open_() -> Iterator[Shoot]:
        home = "".join(char for char in name if char.isalnum())
        with platform(bench, home, **(env or {})) as running:
            if spec is not None:
                add(running, spec)
            yield lambda: shoot(running, model, ask)

    return Contender(name, open_)


def shoot(running: Platform, model: str, ask: Ask) -> Shot:
    """Stop the model, and ask."""
    running.post(f"/api/models/{model}/stop")
    seconds = seconds_of(lambda: ask(running.url))
    return Shot(seconds, ledger(running, model, seconds))


def ledger(running: Platform, model: str, seconds: float) -> dict[str, float]:
    """The stages of the replica that answered; what they leave of the whole is the request's own."""
    (replica,) = running.model(model)["replicas"]
    stages: dict[str, Any] = replica["stages_s"]
    return {**stages, "request": seconds - sum(stages.values())}
