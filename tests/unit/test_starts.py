"""What is told of a start from the starts before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract.model import ModelSpec
from ekiben.fleet.decisions.starts import TO_READY, Starts, cold_cost_s, time_left_s
from ekiben.fleet.processes.launcher import Plan
from ekiben.store.database import Database, sqlite_url
from ekiben.store.records import Records

SPEC = ModelSpec.model_validate(
    {
        "name": "m",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [{"format": "gguf", "engine": "e", "source": {"kind": "local", "path": "/weights"}}],
    }
)
PLAN = Plan(model=SPEC, variant=0, weights=Path("/w"), bento=Path("/b"), device="cpu", threads=1)
WARM = {"queued": 0.1, "starting": 1.0, "loading": 2.0, "first_token": 0.5}


def test_without_history_nothing_is_known() -> None:
    assert time_left_s([], stage="loading", elapsed_s=0.0) is None
    assert cold_cost_s([]) is None


def test_what_is_left_is_the_rest_of_this_stage_and_those_to_come() -> None:
    assert time_left_s([WARM], stage="queued", elapsed_s=0.0) == pytest.approx(3.1)
    assert time_left_s([WARM], stage="starting", elapsed_s=0.25) == pytest.approx(2.75)
    assert time_left_s([WARM], stage="loading", elapsed_s=0.5) == pytest.approx(1.5)


def test_medians_count_not_the_one_bad_day() -> None:
    history = [WARM, WARM, WARM | {"loading": 600.0}]
    assert time_left_s(history, stage="starting", elapsed_s=0.0) == pytest.approx(3.0)
    assert cold_cost_s(history) == pytest.approx(3.5)


def test_a_stage_that_most_starts_skip_adds_nothing() -> None:
    history = [WARM, WARM, WARM | {"fetching": 300.0, "evicting": 4.0}]
    assert time_left_s(history, stage="queued", elapsed_s=0.0) == pytest.approx(3.1)


def test_a_start_that_drags_on_is_compared_with_those_that_did() -> None:
    history = [WARM, WARM, WARM | {"loading": 10.0}]
    assert time_left_s(history, stage="loading", elapsed_s=4.0) == pytest.approx(6.0)


def test_longer_than_ever_before_is_unknown_and_not_zero() -> None:
    assert time_left_s([WARM], stage="loading", elapsed_s=2.0) is None


def test_what_is_no_stage_of_a_start_has_no_end() -> None:
    assert time_left_s([WARM], stage="first_token", elapsed_s=0.0) is None
    assert time_left_s([WARM], stage="draining", elapsed_s=0.0) is None


def test_a_start_that_nobody_used_has_no_first_token() -> None:
    unused = {"starting": 1.0, "loading": 2.0}
    assert cold_cost_s([unused]) == pytest.approx(3.0)
    assert cold_cost_s([WARM, unused]) == pytest.approx(3.5)


def test_waiting_for_others_is_no_cost_of_the_model() -> None:
    assert cold_cost_s([WARM | {"queued": 99.0, "evicting": 99.0, "fetching": 99.0}]) == pytest.approx(3.5)


TIMES = st.integers(0, 10_000).map(float)
HISTORIES = st.lists(st.dictionaries(st.sampled_from(TO_READY), TIMES), max_size=20)


@given(HISTORIES, st.sampled_from(TO_READY), TIMES)
def test_time_left_is_never_negative_nor_beyond_the_worst_start(
    history: list[dict[str, float]], stage: str, elapsed_s: float
) -> None:
    left_s = time_left_s(history, stage=stage, elapsed_s=elapsed_s)
    if left_s is not None:
        worst = sum(max(start.get(s, 0.0) for start in history) for s in TO_READY)
        assert 0.0 <= left_s <= worst + 1e-6


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(TO_READY, TIMES.filter(bool))), min_size=1, max_size=20))
def test_an_earlier_stage_has_no_less_to_go(history: list[dict[str, float]]) -> None:
    left = [time_left_s(history, stage=stage, elapsed_s=0.0) or 0.0 for stage in TO_READY]
    assert left == sorted(left, reverse=True)


def test_starts_are_remembered_over_a_restart_by_device(tmp_path: Path) -> None:
    database = Database.open(sqlite_url(tmp_path / "db"))
    records = Records(database)
    starts = Starts(records)
    assert starts.eta_s(PLAN, "loading", 0.5) is None
    starts.started(PLAN, WARM)
    records.close()
    again = Starts(Records(database))
    assert again.eta_s(PLAN, "loading", 0.5) == pytest.approx(1.5)
    assert again.cold_cost_s(PLAN) == pytest.approx(3.5)
    assert again.cold_cost_s(replace(PLAN, device="cuda:0")) is None
    database.close()
