"""From recorded rates to arrivals and models: what is kept, and what is left to the seed."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.errors import ConfigError
from ekiben.fleet.simulation.scenario import LOAD_BYTES_PER_S, START_S, draw_scenario
from ekiben.fleet.simulation.trace import WINDOW_S, RateTrace, RequestTrace, Window, read_trace

SHAPES = {"Gamma": st.floats(0.005, 5e4), "Weibull": st.floats(0.1, 10.0)}


@given(st.sampled_from(sorted(SHAPES)), st.data(), st.integers(0, 2**32))
def test_arrivals_fill_their_window_in_order_and_in_number(dist: str, data: st.DataObject, seed: int) -> None:
    window = Window(1200.0, rate_rps=0.1, dist=dist, shape=data.draw(SHAPES[dist]))
    arrivals = list(window.arrivals(1.0, random.Random(seed)))
    assert len(arrivals) in (60, 61)
    assert arrivals == sorted(arrivals)
    assert 1200.0 <= arrivals[0] <= arrivals[-1] <= 1200.0 + WINDOW_S


def test_gaps_have_the_shape_of_their_distribution() -> None:
    """A shape of 1 is the exponential, with a coefficient of variation of 1; a large one is a clock."""

    def variation(dist: str, shape: float) -> float:
        at = list(Window(0.0, 20.0, dist, shape).arrivals(1.0, random.Random(5)))
        gaps = [after - before for before, after in pairwise(at)]
        mean = sum(gaps) / len(gaps)
        return float((sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean)

    assert variation("Gamma", 1.0) == pytest.approx(1.0, rel=0.1)
    assert variation("Weibull", 1.0) == pytest.approx(1.0, rel=0.1)
    assert variation("Gamma", 0.25) == pytest.approx(2.0, rel=0.1)
    assert variation("Gamma", 1e4) < 0.02


def test_a_share_of_a_stream_is_that_share_on_average() -> None:
    window, rng = Window(0.0, 0.05, "Gamma", 1.0), random.Random(1)
    counts = [len(list(window.arrivals(0.05, rng))) for _ in range(2000)]
    assert set(counts) == {1, 2}
    assert sum(counts) / len(counts) == pytest.approx(1.5, abs=0.05)


def test_requests_are_dealt_once_each_and_the_first_stream_gets_most() -> None:
    trace = RequestTrace([float(second) for second in range(1000)])
    dealt = trace.streams(4, most_requests=10_000, rng=random.Random(3))
    assert sorted(at for arrivals in dealt.values() for at in arrivals) == trace.arrivals_s
    assert list(map(len, dealt.values())) == sorted(map(len, dealt.values()), reverse=True)
    thinned = trace.streams(4, most_requests=50, rng=random.Random(3))
    assert all(len(arrivals) == 50 and arrivals == sorted(arrivals) for arrivals in thinned.values())


def test_a_scenario_is_the_same_for_the_same_seed_only() -> None:
    trace = RateTrace({name: [Window(0.0, 0.1, "Gamma", 0.5)] for name in "abcdef"})
    one, again, other = (draw_scenario(trace, models=3, most_requests=1000, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_models_have_the_sizes_and_costs_they_should() -> None:
    trace = RateTrace({f"c{number}": [Window(0.0, 0.1, "Gamma", 0.5)] for number in range(50)})
    models = draw_scenario(trace, models=50, most_requests=1000, seed=1).models
    sizes = sorted(model.size_bytes for model in models)
    assert 0.3e9 <= sizes[0] < 1e9 and 10e9 < sizes[-1] <= 30e9
    assert 1e9 < sizes[25] < 9e9, "as many small ones as large ones"
    assert all(model.cold_cost_s == START_S + model.size_bytes / LOAD_BYTES_PER_S for model in models)


def test_only_whole_windows_of_the_wanted_workloads_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(
        "workload,client,t_s,rate_rps,cv,dist,shape,scale\n"
        "a,1,0,0.5,1,Gamma,1,1\n"
        "a,1,600,0.5,1,Weibull,2,1\n"
        "a,1,1200,0.5,1,Gamma,1,1\n"
        "b,1,0,0.5,1,Gamma,1,1\n"
    )
    trace = read_trace(path, until_s=1200.0, workloads=["a"])
    assert trace == RateTrace({"a/1": [Window(0.0, 0.5, "Gamma", 1.0), Window(600.0, 0.5, "Weibull", 2.0)]})


def test_more_models_than_streams_are_refused() -> None:
    with pytest.raises(ConfigError, match="has 1 streams, not 2"):
        draw_scenario(RateTrace({"a": [Window(0.0, 1.0, "Gamma", 1.0)]}), models=2, most_requests=9, seed=1)
