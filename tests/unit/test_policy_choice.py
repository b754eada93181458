"""Which policy decides: the one asked for while it works, another one as soon as it does not."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ekiben.contract import Idle, Policy, Resident, testing
from ekiben.fleet.policy.choice import GuardedPolicy, choose_policy
from ekiben.plugins.discovery import Plugins, discover
from ekiben_adaptive.policy import Adaptive
from ekiben_classic.policy import Classic

PLUGINS = discover()
RESIDENT = Resident("m", size_bytes=100, cold_cost_s=10.0, rate=2.0, last_use_s=7.0)
IDLE = Idle("m", size_bytes=10**9, cold_cost_s=4.0, gaps_s=())


MANIFEST = """
id = "theirs"
kind = "policy"
api = 1
name = "Theirs"
summary = "for tests"
object = "ekiben_theirs.p:P"
"""


class Scripted:
    """A policy that answers with whatever it is given, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    def worth(self, resident: Resident) -> float:
        return self._answer()

    def keep_alive_s(self, idle: Idle) -> float:
        return self._answer()

    def _answer(self) -> float:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


def guarded(policy: Policy) -> GuardedPolicy:
    return GuardedPolicy(policy, "theirs", spare=Classic(), spare_id="classic")


def test_the_policy_asked_for_decides() -> None:
    assert choose_policy(PLUGINS).worth(RESIDENT) == Adaptive().worth(RESIDENT)
    classic = choose_policy(PLUGINS, "classic")
    assert (classic.worth(RESIDENT), classic.keep_alive_s(IDLE)) == (7.0, 300.0)


@pytest.mark.parametrize("wanted", ["nope", "llama_cpp"])
def test_one_that_does_not_exist_is_replaced_and_told(wanted: str, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(choose_policy(PLUGINS, wanted), Adaptive)
    assert f"policy '{wanted}' cannot be used, going by 'adaptive'" in caplog.text
    assert "there is none (known: adaptive, classic)" in caplog.text


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy of another distribution, installed; gives its module."""
    info = tmp_path / "their_policy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ekiben.plugins]\ntheirs = ekiben_theirs\n")
    package = tmp_path / "ekiben_theirs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.toml").write_text(MANIFEST)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    for name in ("ekiben_theirs", "ekiben_theirs.p"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return package / "p.py"


ALWAYS = """
class P:
    def worth(self, resident): return 1.0
    def keep_alive_s(self, idle): return 42.0
"""


def test_one_of_somebody_else_decides_when_it_works(theirs: Path) -> None:
    theirs.write_text(ALWAYS)
    assert choose_policy(discover(), "theirs").keep_alive_s(IDLE) == 42.0


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import os; os._exit(3)", "ended its process with code 3"),
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("class P: pass", "ekiben_theirs.p:P has no worth and no keep_alive_s"),
    ],
)
def test_one_that_cannot_be_made_is_tried_out_elsewhere_and_replaced(
    theirs: Path, caplog: pytest.LogCaptureFixture, code: str, problem: str
) -> None:
    theirs.write_text(code)
    assert isinstance(choose_policy(discover(), "theirs"), Adaptive)
    assert problem in caplog.text


def test_a_manifest_that_is_not_in_order_is_told(theirs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (theirs.parent / "plugin.toml").write_text("api = 7\n")
    assert isinstance(choose_policy(discover(), "theirs"), Adaptive)
    assert "written for API 7" in caplog.text


@pytest.mark.parametrize(
    "answer", [RuntimeError("no luck"), math.nan, None, "300", 1j, ZeroDivisionError()], ids=repr
)
def test_one_that_fails_is_not_asked_again(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    for question in ("worth", "keep_alive_s"):
        caplog.clear()
        policy = Scripted(answer)
        guard = guarded(policy)
        if question == "worth":
            assert [guard.worth(RESIDENT) for _ in range(3)] == [7.0] * 3
        assert [guard.keep_alive_s(IDLE) for _ in range(3)] == [300.0] * 3
        assert policy.asked == 1
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "policy 'theirs' failed, going by 'classic' from now on" in caplog.text


def test_times_are_not_negative_but_may_be_infinite() -> None:
    assert guarded(Scripted(-1.0)).keep_alive_s(IDLE) == 300.0
    assert math.isinf(guarded(Scripted(math.inf)).keep_alive_s(IDLE))
    assert guarded(Scripted(-1.0)).worth(RESIDENT) == -1.0


def test_without_policies_of_others_the_default_is_there() -> None:
    ours = Plugins({i: p for i, p in PLUGINS.usable.items() if p.distribution == "ekiben"})
    assert choose_policy(ours).keep_alive_s(IDLE) == Adaptive().keep_alive_s(IDLE)


def test_the_conformance_suite_finds_what_is_wrong() -> None:
    testing.check_policy(Classic)
    testing.check_policy(Adaptive)
    for answer in (math.nan, None):
        with pytest.raises(testing.NotConforming, match="worth gives a number"):
            testing.check_policy(lambda answer=answer: Scripted(answer))  # type: ignore[misc]
    with pytest.raises(testing.NotConforming, match="keep_alive_s gives no negative time"):
        testing.check_policy(lambda: Scripted(-1.0))
    answers = iter(range(10**6))
    moody = Scripted(0.0)
    moody._answer = lambda: float(next(answers))  # type: ignore[method-assign]
    with pytest.raises(testing.NotConforming, match="the same answers"):
        testing.check_policy(lambda: moody)


def test_the_zero_of_everything_is_answered() -> None:
    nothing = replace(RESIDENT, size_bytes=0, cold_cost_s=0.0, rate=0.0)
    assert Adaptive().worth(nothing) == 0.0
