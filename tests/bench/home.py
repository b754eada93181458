"""Where the benchmarks take weights from: the same folder as the tests, filled when it is not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ekiben.catalog.specs import builtin_specs
from ekiben.catalog.weights import WeightsStore
from ekiben.plugins.discovery import discover

MODEL = "smollm2-135m-instruct"


def weights_home() -> Path:
    """A home that has the weights of `MODEL`."""
    asked = os.environ.get("EKIBEN_TEST_WEIGHTS", "~/.cache/ekiben-tests")
    home = Path(asked).expanduser()
    weights_of(MODEL, home)
    return home


def weights_of(name: str, home: Path) -> Path:
    """The file or folder that engines load."""
    plugins = discover()
    (spec,) = [spec for spec in builtin_specs(plugins) if spec.name == name]
    store = WeightsStore(home, plugins)
    return asyncio.run(store.ensure(spec.variants[0].source, report=lambda progress: None))
