"""How far a model is, on one line for people who wait."""

from __future__ import annotations

import pytest

from ekiben.cli.ps import _row
from ekiben.fleet.types import Progress, State
from ekiben.gateway.relay.heartbeat import in_words


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(state=State.QUEUED, stage="waiting to start"), "waiting to start"),
        (Progress(state=State.LOADING, stage="loading", progress=0.25), "loading 25%"),
        (Progress(state=State.LOADING, stage="loading", eta_s=3.21), "loading, 3.2s left"),
        (
            Progress(
                state=State.LOADING,
                stage="loading\nthe model",
                progress=0.5,
                eta_s=61.0,
                stages_s={"queued": 0.04, "starting": 0.41, "loading": 12.3},
            ),
            "loading the model 50%, 61s left (queued 0.0s, starting 0.4s, loading 12s)",
        ),
    ],
)
def test_what_is_not_known_is_left_out(progress: Progress, text: str) -> None:
    assert in_words(progress) == text


def model(**more: object) -> dict[str, object]:
    nothing = dict.fromkeys(["progress", "eta_s", "memory_bytes", "unloads_in_s", "error", "retry_in_s"])
    return {"name": "m", "in_flight": 0, "waiting": 1, "replicas": [], "stages_s": {}} | nothing | more


def test_ps_shows_the_stages_and_what_is_left() -> None:
    stages_s = {"queued": 0.1, "evicting": 0.5, "loading": 2.0}
    row = _row(model(state="loading", stage="loading", progress=0.5, eta_s=4.0, stages_s=stages_s))
    assert row[2:4] == ("loading 50%, 4.0s left", "queued 0.1s, evicting 0.5s, loading 2.0s")


def test_ps_shows_how_long_the_start_of_a_ready_model_took() -> None:
    replica = {"engine": "e", "stages_s": {"starting": 0.3, "loading": 0.2, "first_token": 0.1}}
    row = _row(model(state="ready", stage="ready", replicas=[replica]))
    assert row[2:5] == ("", "starting 0.3s, loading 0.2s, first token 0.1s", "e")


def test_ps_shows_how_far_long_requests_have_come() -> None:
    work = [
        {"done": 12.0, "total": 50.0, "unit": "steps"},
        {"done": 29.5, "total": None, "unit": "seconds"},
    ]
    row = _row(model(state="ready", stage="ready", work=work))
    assert row[2] == "12 of 50 steps, 29.5 seconds"
