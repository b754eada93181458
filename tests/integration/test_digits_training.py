"""`python -m tests.digits` makes the same weights each time, byte for byte, whatever process it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.catalog.specs import resolve_model
from ekiben.plugins.discovery import discover

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def trained(folder: Path, *, hash_seed: int, steps: int = 3) -> dict[str, bytes]:
    """The files of a model that has learned for some steps in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "tests.digits", folder, f"--autoencoder-steps={steps}", f"--steps={steps}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        check=True,
        capture_output=True,
        timeout=600,
    )
    return files_of(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return trained(tmp_path_factory.mktemp("first"), hash_seed=1)


def test_two_trainings_make_the_same_bytes(made: dict[str, bytes], tmp_path: Path) -> None:
    again = trained(tmp_path, hash_seed=2)
    assert again.keys() == made.keys()
    assert [name for name in made if made[name] != again[name]] == []


def test_more_steps_make_other_weights(made: dict[str, bytes], tmp_path: Path) -> None:
    longer = trained(tmp_path, hash_seed=1, steps=4)
    weights = [name for name in made if name.endswith(".safetensors")]
    assert len(weights) == 3
    assert all(made[name] != longer[name] for name in weights)


def test_what_is_in_the_catalog_has_the_same_shape(made: dict[str, bytes]) -> None:
    source = resolve_model("digits-diffusion", plugins=discover()).variants[0].source
    catalogued = files_of(Path(source.parameters["path"]))
    assert made.keys() == catalogued.keys()
    weights = [name for name in made if name.endswith(".safetensors")]
    assert {name: len(made[name]) for name in weights} == {name: len(catalogued[name]) for name in weights}
