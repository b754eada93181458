"""First-party plugins are plugins like anybody's: they pass the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ekiben.catalog.specs import builtin_specs
from ekiben.contract import Engine, testing
from ekiben.plugins.discovery import discover, load_object
from tests import transformers_engine
from tests.smollm2_folder import smollm2_folder

PLUGINS = discover()
MODELS = {
    variant.engine: (spec, index)
    for spec in builtin_specs(PLUGINS)
    for index, variant in enumerate(spec.variants)
}

MADE = {"kokoro", "transformers", "whisper"}
"""Engines for models that no built-in spec brings: tested with the files that tests make."""

TESTED_ELSEWHERE = {"vllm"}
"""Engines with an environment of their own, under a marker of their own."""

USER = {"role": "user", "content": "hi"}
REQUESTS: dict[str, dict[str, dict[str, Any]]] = {
    "anthropic": {
        "/v1/messages": {"model": "m", "max_tokens": 8, "messages": [USER]},
        "/v1/messages/count_tokens": {"model": "m", "messages": [USER]},
    },
}
"""What a client of each dialect may ask, by path."""


@pytest.mark.parametrize("plugin", sorted(PLUGINS.usable))
def test_manifest_and_import(plugin: str) -> None:
    manifest = PLUGINS.usable[plugin].manifest
    testing.check_manifest(manifest)
    testing.check_import(manifest)


def test_every_engine_has_a_model_to_be_tested_with() -> None:
    assert set(MODELS) | MADE | TESTED_ELSEWHERE == set(PLUGINS.engines())


@pytest.mark.parametrize("engine", sorted(set(MODELS) - TESTED_ELSEWHERE))
async def test_engine(engine: str, weights: Callable[[str], Path], tmp_path: Path) -> None:
    plugin = PLUGINS.usable[engine]
    spec, variant = MODELS[engine]
    made = load_object(plugin)
    section = plugin.manifest.engine
    assert section is not None
    request = testing.load_request(
        spec, weights(spec.name), scratch=tmp_path, variant=variant, options=section.defaults()
    )
    engine_object: Engine = made  # type: ignore[assignment]
    await testing.check_engine(engine_object, request)


async def test_engine_of_safetensors_folders(weights_home: Path, tmp_path: Path) -> None:
    request = transformers_engine.order(smollm2_folder(weights_home), tmp_path, context=1024)
    made: Engine = load_object(PLUGINS.usable["transformers"])  # type: ignore[assignment]
    await testing.check_engine(made, request)


@pytest.mark.parametrize("policy", sorted(PLUGINS.policies()))
def test_policy(policy: str) -> None:
    testing.check_policy(lambda: load_object(PLUGINS.usable[policy]))  # type: ignore[arg-type, return-value]


def test_a_source_that_has_what_it_needs(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"GGUF")
    source = load_object(PLUGINS.usable["local"])
    folder = tmp_path / "folder"
    folder.mkdir()
    testing.check_source(source, {"path": str(weights)}, folder=folder)  # type: ignore[arg-type]


def test_every_dialect_is_checked_here() -> None:
    assert set(PLUGINS.dialects()) == set(REQUESTS)


@pytest.mark.parametrize("dialect", REQUESTS)
def test_dialect(dialect: str) -> None:
    made = load_object(PLUGINS.usable[dialect])
    testing.check_dialect(made, REQUESTS[dialect])  # type: ignore[arg-type]
