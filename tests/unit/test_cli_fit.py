"""What `ekiben model show` says of memory."""

from __future__ import annotations

from typing import Any

import pytest

from ekiben.cli.fit import format_fit


def fit(fits: str, **changes: Any) -> dict[str, Any]:
    told = {
        "fits": fits,
        "need": {"cpu": 540_000_000, "cuda:0": 2_000_000_000},
        "free": {"cpu": 1_000_000_000, "cuda:0": -5, "cuda:1": 7},
        "would_go": (),
        "reason": None,
    }
    return told | changes


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (fit("loaded"), "loaded: holds 540.0 MB on cpu, 2.0 GB on cuda:0"),
        (fit("now", need={"cpu": 1000}), "now: needs 1.0 kB on cpu; free: 1.0 GB on cpu"),
        (fit("now", need={"cpu": 1000}, free={}), "now: needs 1.0 kB on cpu; free: no limit"),
        (
            fit("after evictions", would_go=("a", "zygote piper")),
            "after unloading a, zygote piper: needs 540.0 MB on cpu, 2.0 GB on cuda:0; "
            "free: 1.0 GB on cpu, 0 B on cuda:0",
        ),
        (
            fit("later", need={"cpu": 1}),
            "not before others are loaded or done: needs 1 B on cpu; free: 1.0 GB on cpu",
        ),
        (fit("never", reason="it needs too much"), "never: it needs too much"),
        (fit("unknown", need=None, reason="no weights"), "unknown: no weights"),
        (fit("unknown", need=None), "unknown"),
    ],
)
def test_the_verdict_in_words(told: dict[str, Any], expected: str) -> None:
    assert format_fit(told) == expected
