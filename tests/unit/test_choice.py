"""Which variant runs, and what is said when none can."""

from __future__ import annotations

from pathlib import Path

import pytest

from ekiben.catalog.choice import choose_variant
from ekiben.contract.manifest import Manifest
from ekiben.contract.model import ModelSpec
from ekiben.errors import EngineNotInstalled
from ekiben.plugins.discovery import BrokenPlugin, Plugin, Plugins


def engine(plugin_id: str, *requires: str) -> Plugin:
    section = {"families": ["llm"], "abilities": ["chat"], "formats": ["gguf"]}
    manifest = Manifest.model_validate(
        {
            "id": plugin_id,
            "kind": "engine",
            "api": 1,
            "name": plugin_id,
            "summary": "for tests",
            "object": f"ekiben_{plugin_id}:Engine",
            "requires": requires,
            "engine": section,
        }
    )
    return Plugin(manifest, "tests", "1", Path("/nowhere"))


PLUGINS = Plugins(
    {
        "here": engine("here", "pytest>=1"),
        "absent": engine("absent", "no-such-package>=2", "pytest>=1"),
        "old": engine("old", "pytest>=9999"),
    },
    (BrokenPlugin("spoilt", "somebody", "written for API 9"),),
)


def spec(*engines: str) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "family": "llm",
            "abilities": ["chat"],
            "variants": [
                {"format": "gguf", "engine": engine, "source": {"kind": "local", "path": "/x"}}
                for engine in engines
            ],
        }
    )


@pytest.mark.parametrize(
    ("engines", "expected"),
    [(["here"], 0), (["absent", "here"], 1), (["unknown", "spoilt", "old", "here", "here"], 3)],
)
def test_the_first_variant_whose_engine_is_installed_runs(engines: list[str], expected: int) -> None:
    assert choose_variant(spec(*engines), PLUGINS) == expected


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        (
            ["absent"],
            "the model 'm' needs the engine 'absent', which is not installed (missing: no-such-package>=2): "
            "run `ekiben engine install absent`",
        ),
        (
            ["unknown", "old", "absent", "old"],
            "the model 'm' needs the engine 'unknown' or 'old' or 'absent', which is not installed "
            "(missing: pytest>=9999): run `ekiben engine install old`",
        ),
        (["spoilt"], "the model 'm' needs the engine 'spoilt', which cannot be used: written for API 9"),
        (
            ["unknown"],
            "the model 'm' needs the engine 'unknown', and there is no such plugin here: "
            "install the package that brings it",
        ),
    ],
)
def test_when_nothing_is_installed_the_error_says_what_mends_it(engines: list[str], expected: str) -> None:
    with pytest.raises(EngineNotInstalled) as caught:
        choose_variant(spec(*engines), PLUGINS)
    assert caught.value.message == expected
    assert (caught.value.status, caught.value.code) == (502, "engine_not_installed")
