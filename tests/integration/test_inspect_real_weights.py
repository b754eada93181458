"""The weights of the built-in models, given as paths, are recognised as what the built-in specs say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben.catalog.inspect import spec_from_path
from ekiben.catalog.specs import builtin_specs
from ekiben.errors import ConfigError
from ekiben.plugins.discovery import discover

PLUGINS = discover()
BUILTIN = {spec.name: spec for spec in builtin_specs(PLUGINS)}
# Their weights do not say what they are of: the spec does.
UNNAMED = {name for name, spec in BUILTIN.items() if "architecture" in spec.variants[0].options}


@pytest.mark.parametrize("name", sorted(BUILTIN.keys() - UNNAMED))
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


@pytest.mark.parametrize("name", sorted(UNNAMED))
def test_weights_that_do_not_say_what_they_are_of(weights: Callable[[str], Path], name: str) -> None:
    with pytest.raises(ConfigError, match="write a model spec with `architecture` in it"):
        spec_from_path(weights(name), plugins=PLUGINS, name=name)
