"""What engines estimate is near what a load and full-size work take, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ekiben.catalog.specs import resolve_model
from ekiben.plugins.discovery import discover
from tests.large_pipelines import KINDS
from tests.smollm2_folder import FOLDER, smollm2_folder

ROOT = Path(__file__).parents[2]
DIGITS = "digits-diffusion"
"""Whose spec serves for any pipeline."""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (FOLDER, {"context": 1024, "parallel": 1}),
        ("smollm2-135m-instruct", {"context": 512, "parallel": 1}),
        ("smollm2-135m-instruct", {"context": 2048, "parallel": 8, "kv_cache": "q8_0"}),
        ("all-minilm-l6-v2", {}),
        ("whisper-base", {}),
        ("piper-en-us-joe", {}),
        ("pp-ocr-v6", {"max_side": 1200}),
        ("efficientnet-lite0", {}),
    ],
)
def test_estimates_are_near_the_growth_of_the_process(
    name: str, options: dict[str, Any], weights: Callable[[str], Path], weights_home: Path, tmp_path: Path
) -> None:
    path = smollm2_folder(weights_home) if name == FOLDER else weights(name)
    assert 0.7 < ratio_of(str(path) if name == FOLDER else name, path, options, scratch=tmp_path) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", *KINDS])
def test_estimates_of_pipelines_are_nearer(kind: str, tmp_path: Path) -> None:
    """Pictures of the size that the model was made for, and of twice that."""
    path = Path(resolve_model(DIGITS, plugins=discover()).variants[0].source.parameters["path"])
    if kind != "digits":
        path = tmp_path / kind
        making = [sys.executable, "-m", "tests.large_pipelines", kind, str(path)]
        subprocess.run(making, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert 0.9 <= ratio_of(DIGITS, path, {"max_batch": 1}, scratch=tmp_path / "scratch") <= 1.3


def ratio_of(name: str, path: Path, options: dict[str, Any], *, scratch: Path) -> float:
    """Of what is estimated to what a process of its own grows by."""
    scratch.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.memory_growth", name, path, json.dumps(options), scratch],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ratio: float = found["estimate"] / found["growth"]
    print(f"{name} {options}: estimate {found['estimate'] / 1e6:.0f} MB, {ratio:.2f} of the growth")
    return ratio
