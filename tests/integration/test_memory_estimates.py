"""What engines estimate is near what a load and full-size work take, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.smollm2_folder import FOLDER, smollm2_folder

ROOT = Path(__file__).parents[2]


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
    ],
)
def test_estimates_are_near_the_growth_of_the_process(
    name: str, options: dict[str, Any], weights: Callable[[str], Path], weights_home: Path, tmp_path: Path
) -> None:
    path = smollm2_folder(weights_home) if name == FOLDER else weights(name)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.memory_growth"),
            *(str(path) if name == FOLDER else name, str(path), json.dumps(options), str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ratio = found["estimate"] / found["growth"]
    print(f"{name} {options}: estimate {found['estimate'] / 1e6:.0f} MB, {ratio:.2f} of the growth")
    assert 0.7 < ratio < 1.5, found
