"""Dialects of strangers: what they cannot do, they cannot do to the platform."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben.contract.manifest import Manifest
from ekiben.errors import ModelNotFound
from ekiben.plugins.dialects import load_dialects
from ekiben.plugins.discovery import Plugin, Plugins

PATHS = {"/v1/chat/completions"}
MODULE = """
from ekiben.contract.dialect import DialectRoute
from ekiben.contract.model import Ability

{before}

class Stranger:
    key_header = None
    request_id_header = None
    routes = (
        DialectRoute(
            path={path!r}, ability=Ability.CHAT, target={target!r}, translate=lambda body: None
        ),
    )

    def error(self, failure):
        {error}

    def error_event(self, body):
        {error}
"""

Make = Callable[..., Plugins]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Make:
    """Plugins with one dialect, which is somebody else's."""
    package = f"ekiben_stranger_{abs(hash(request.node.name))}"

    def make(
        *,
        before: str = "",
        path: str = "/say",
        target: str = "/v1/chat/completions",
        error: str = "return b'{}'",
    ) -> Plugins:
        (tmp_path / f"{package}.py").write_text(
            MODULE.format(before=before, path=path, target=target, error=error)
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        manifest = Manifest.model_validate(
            {
                "id": "stranger",
                "kind": "dialect",
                "api": 1,
                "name": "Stranger",
                "summary": "Says it otherwise",
                "object": f"{package}:Stranger",
            }
        )
        plugin = Plugin(manifest, "somebody-elses", "1.0", tmp_path)
        return Plugins({"stranger": plugin})

    return make


def test_one_that_is_well_is_spoken(make: Make) -> None:
    (spoken,) = load_dialects(make(), taken=PATHS, targets=PATHS, tried=True)
    assert [route.path for route in spoken.routes] == ["/say"]
    assert spoken.errors.body(ModelNotFound("no"), request_id="r") == b"{}"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"before": "raise RuntimeError('squawk')"}, "RuntimeError: squawk"),
        ({"path": "/v1/chat/completions"}, "is taken, or is none"),
        ({"path": "say"}, "is taken, or is none"),
        ({"path": "/say/{}"}, "is taken, or is none"),
        ({"target": "/v1/dance"}, "'/v1/dance', which is no route"),
    ],
)
def test_one_that_is_not_is_left_out_with_a_word(
    make: Make, wrong: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_dialects(make(**wrong), taken=PATHS, targets=PATHS, tried=True) == []
    assert "the dialect 'stranger' is not spoken" in caplog.text
    assert reason in caplog.text


def test_a_stranger_is_tried_out_in_a_process_of_its_own(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = tmp_path / "was-here"
    plugins = make(before=f"open({str(trace)!r}, 'w').close()")
    assert load_dialects(plugins, taken=PATHS, targets=PATHS) == []  # it is not installed for that process
    assert "is not spoken" in caplog.text
    assert not trace.exists()


def test_errors_that_it_cannot_tell_are_told_in_openai_s_words(make: Make) -> None:
    plugins = make(error="raise RuntimeError('squawk')")
    (spoken,) = load_dialects(plugins, taken=PATHS, targets=PATHS, tried=True)
    body = spoken.errors.body(ModelNotFound("no such", param="model"), request_id="r")
    assert json.loads(body)["error"]["code"] == "model_not_found"
    assert spoken.errors.event(body) == b"data: " + body + b"\n\n"
