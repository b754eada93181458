"""The weights of the built-in models, given as paths, are recognised as what the built-in specs say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben.catalog.inspect import spec_from_path
from ekiben.catalog.specs import builtin_specs
from ekiben.plugins.discovery import discover

PLUGINS = discover()
BUILTIN = {spec.name: spec for spec in builtin_specs(PLUGINS)}


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_weights_are_recognised(weights: Callable[[str], Path], name: str) -> None:
    expected = BUILTIN[name]
    found = spec_from_path(weights(name), plugins=PLUGINS, name=name)
    assert found.family is expected.family
    assert found.abilities == expected.abilities
    assert found.variants[0].engine == expected.variants[0].engine
    assert found.variants[0].format == expected.variants[0].format
    if expected.variants[0].format == "gguf":
        assert found.variants[0].quantization == expected.variants[0].quantization
        assert "135M parameters" in found.description
        assert "8192 tokens of context" in found.description
