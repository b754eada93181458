"""What an import may pull in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "bentoml", "_bentoml_impl", "openai", "numpy", "vllm"}


def modules_after(statement: str) -> set[str]:
    script = f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("ekiben.cli.main", HEAVY | {"sqlalchemy", "aiohttp", "uvicorn", "alembic", "rich"}),
        ("ekiben.app", HEAVY | {"alembic"}),
        ("ekiben.contract", HEAVY | {"aiohttp"}),
        ("ekiben.runtime.protocol", HEAVY | {"aiohttp"}),
    ],
)
def test_import_is_light(module: str, unwanted: set[str]) -> None:
    assert modules_after(f"import {module}") & unwanted == set()
