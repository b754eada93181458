"""`bentoml build` of each Bento, with no network, and a built one served from the store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.bentos.processes import BENTOML, ROOT, Served, parrot_spec

FAMILIES = sorted(path.parent.name for path in (ROOT / "bentos").glob("*/service.py"))


def build(family: str, home: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, object]:
    """What `bento.yaml` of the Bento says that was built."""
    # Whoever asks an index gets no answer from these.
    offline = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "UV_INDEX_URL": "http://127.0.0.1:9/",
        "UV_OFFLINE": "1",
    }
    result = subprocess.run(
        [BENTOML, "build", f"bentos/{family}", "--output", "tag", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | offline | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"} | (env or {}),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = (home / "bentos" / f"ekiben-{family}").glob("*/bento.yaml")
    described: dict[str, object] = yaml.safe_load(path.read_text())
    return described


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_builds(family: str, folder: Path) -> None:
    described = build(family, folder)
    assert described["name"] == f"ekiben-{family}"
    assert described["labels"] == {"project": "ekiben", "family": family}


def test_a_built_bento_serves_the_model_that_was_built_in(
    folder: Path, parrot_path: str, serve: Callable[..., Served]
) -> None:
    (folder / "cracker").write_bytes(b"cracker")
    spec = folder / "polly.yaml"
    spec.write_text(parrot_spec(folder / "cracker").model_dump_json(exclude_defaults=True))
    described = build("llm", folder / "bentoml", "--arg", f"model={spec}", env={"PYTHONPATH": parrot_path})
    assert described["args"] == {"model": str(spec)}
    served = serve(
        "ekiben-llm:latest", env={"PYTHONPATH": parrot_path, "EKIBEN_HOME": str(folder / "home")}
    ).wait_until_ready()
    answer = served.openai.chat.completions.create(
        model="polly", messages=[{"role": "user", "content": "hello from the store"}]
    )
    assert answer.choices[0].message.content == "hello from the store"
