"""`ekiben simulate` on small traces of both kinds, and on what is none."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from ekiben.cli.main import main

RATES = "workload,client,t_s,rate_rps,cv,dist,shape,scale\n"
REQUESTS = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    """Six clients who take turns: one window each in every hour of a day."""
    rows = [
        f"language/m-small,{client},{3600 * hour + 600 * client},0.05,1.5,{dist},0.5,40\n"
        for hour in range(24)
        for client, dist in enumerate(["Gamma", "Weibull"] * 3)
    ]
    path = tmp_path / "rates.csv.gz"
    path.write_bytes(gzip.compress((RATES + "".join(rows)).encode()))
    return path


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.csv"
    rows = [f"2023-11-16 {18 + i // 60}:{i % 60:02d}:46.6805900,374,44\n" for i in range(120)]
    path.write_text(REQUESTS + "".join(rows))
    return path


class Simulate:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = main(["simulate", *map(str, arguments)])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *arguments: object) -> list[dict[str, Any]]:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        rows = json.loads(out)
        assert isinstance(rows, list)
        return rows


@pytest.fixture
def simulate(capsys: pytest.CaptureFixture[str]) -> Simulate:
    return Simulate(capsys)


def test_eviction_is_compared_at_equal_memory(simulate: Simulate, rates: Path) -> None:
    rows = simulate.json(rates, "--models", 6, "--memory", "40GB", "--memory", "400 GiB", "--seeds", 2)
    assert [(row["policy"], row["memory_bytes"]) for row in rows] == [
        (policy, memory)
        for memory in (40 * 10**9, 400 * 2**30)
        for policy in ("lru", "adaptive", "ollama", "clairvoyant")
    ]
    by_name = {row["policy"]: row for row in rows[:4]}
    assert by_name["lru"]["wait_ratio"] == 1.0
    assert by_name["lru"]["wait_ratios"] == [1.0, 1.0]
    assert len({row["requests"] for row in rows}) == 1
    assert {row["loads"] for row in rows[4:]} == {6.0}, "where all fit, each loads once"


def test_keep_alive_is_compared_without_a_cap(simulate: Simulate, rates: Path) -> None:
    rows = simulate.json(rates, "--models", 6, "--seeds", 1)
    by_name = {row["policy"]: row for row in rows}
    assert rows[0]["policy"] == "ttl:300"
    assert set(by_name) >= {"adaptive", "hybrid-histogram", "clairvoyant", "ttl:3600"}
    assert by_name["ttl:60"]["wait_ratio"] > 1 > by_name["ttl:3600"]["wait_ratio"]
    assert by_name["ttl:60"]["memory_ratio"] < 1 < by_name["ttl:3600"]["memory_ratio"]


def test_a_seed_gives_the_same_numbers_again_and_another_gives_others(
    simulate: Simulate, rates: Path
) -> None:
    arguments = (rates, "--models", 5, "--seeds", 1, "--memory", "20GB")
    first = simulate.json(*arguments)
    assert simulate.json(*arguments) == first
    assert simulate.json(*arguments, "--first-seed", 2) != first


def test_single_requests_are_dealt_to_models(simulate: Simulate, requests: Path) -> None:
    rows = simulate.json(requests, "--models", 4, "--policy", "ttl:600", "--policy", "adaptive")
    assert [row["policy"] for row in rows] == ["ttl:600", "adaptive"]
    assert all(row["requests"] == 120 for row in rows)
    assert simulate.json(requests, "--models", 4, "--hours", 1)[0]["requests"] == 60


def test_streams_are_thinned_out(simulate: Simulate, rates: Path) -> None:
    full = simulate.json(rates, "--models", 6, "--seeds", 1, "--policy", "ttl")[0]["requests"]
    thin = simulate.json(rates, "--models", 6, "--seeds", 1, "--policy", "ttl", "--most-requests", 72)
    assert 6 * 24 * 29 <= full <= 6 * 24 * 31
    assert 6 * 24 * 2 <= thin[0]["requests"] <= 6 * 24 * 4


def test_the_table_and_the_plot(simulate: Simulate, rates: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    code, out, err = simulate(rates, "--models", 6, "--memory", "40GiB", "--memory", "50GiB", "--plot", plot)
    assert code == 0
    assert out.splitlines()[0].split()[:3] == ["MEMORY", "POLICY", "REQUESTS"]
    assert "relative to lru" in out.splitlines()[-1]
    assert "done: clairvoyant in 50 GiB" in err
    root = ET.fromstring(plot.read_text())
    names = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"lru", "adaptive", "ollama", "clairvoyant", "memory, GiB"} <= names
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 4


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--memory", "64"], "'64' is no size"),
        (["--memory", "0GiB"], "is no size"),
        (["--memory", "9PiB"], "is no size"),
        (
            ["--policy", "nope"],
            "there is no policy 'nope' for this: choose from ttl, hybrid-histogram, clair",
        ),
        (["--policy", "lru"], "there is no policy 'lru'"),
        (["--policy", "ttl:soon"], "'soon' is not a positive number"),
        (["--policy", "ttl:-1"], "not a positive number"),
        (["--policy", "hybrid-histogram:3"], "takes no number"),
        (["--memory", "1GiB", "--policy", "ttl"], "choose from lru, ollama, clairvoyant, adaptive"),
        (["--models", "7"], "the trace has 6 streams, not 7"),
        (["--workload", "nope"], "the trace has 0 streams"),
        (["--models", "0"], "0 is not in the range"),
        (["--plot", "/nowhere/plot.svg"], "/nowhere/plot.svg cannot be written"),
    ],
)
def test_wrong_usage_is_told(simulate: Simulate, rates: Path, options: list[str], part: str) -> None:
    code, _, err = simulate(rates, "--models", "6", "--seeds", "1", *options)
    assert code == 2
    assert part in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is no trace"),
        ("a,b\n1,2\n", "is no trace"),
        (RATES + "w,c,0,many,1,Gamma,1,1\n", "trace.csv:2: could not convert string to float: 'many'"),
        (RATES + "w,c,0,1,1,Gauss,1,1\n", "dist must be 'Gamma' or 'Weibull', not 'Gauss'"),
        (RATES + "w,c,0,-1,1,Gamma,1,1\n", "trace.csv:2: t_s, rate_rps and shape"),
        (RATES + "w,c,0,nan,1,Gamma,1,1\n", "trace.csv:2: t_s, rate_rps and shape"),
        (RATES + "w,c\n", "trace.csv:2:"),
        (RATES, "the trace has 0 streams"),
        (REQUESTS + "yesterday,1,2\n", "trace.csv:2:"),
        (REQUESTS, "the trace has no requests"),
    ],
)
def test_a_broken_trace_is_told(simulate: Simulate, tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    code, _, err = simulate(path)
    assert code == 2
    assert part in err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x1f\x8b\x08"])
def test_a_file_that_is_no_text_is_told(simulate: Simulate, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(content)
    code, _, err = simulate(path)
    assert code == 2
    assert "cannot be read as a trace" in err


def test_a_trace_that_is_not_there(simulate: Simulate, tmp_path: Path) -> None:
    code, _, err = simulate(tmp_path / "nope.csv")
    assert code == 2
    assert "does not exist" in err
