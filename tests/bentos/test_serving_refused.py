"""`bentoml serve` of a Bento that cannot be served: it ends, with one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bentos.processes import ROOT, Served, parrot_spec

Serve = Callable[..., Served]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (None, "no model is given: set EKIBEN_MODEL, or add `--arg model=NAME`"),
        ("no-such-model", "'no-such-model' is neither a built-in model nor a path that exists"),
        ("whisper-base", "is of the family 'audio' and this Bento serves 'llm'"),
    ],
)
def test_a_model_that_cannot_be(serve: Serve, model: str | None, reason: str) -> None:
    served = serve(str(ROOT / "bentos" / "llm"), env={"EKIBEN_MODEL": model} if model else {})
    assert served.process.wait(timeout=30) == 1
    assert reason in served.log
    assert "Traceback" not in served.log


@pytest.mark.parametrize(
    ("load", "cracker", "reason"),
    [
        ("well", b"broken", "the cracker is broken: bake another one"),
        ("fails", b"cracker", "the parrot is not hungry: try another cracker"),
    ],
)
def test_a_load_that_fails(
    serve: Serve, folder: Path, parrot_path: str, load: str, cracker: bytes, reason: str
) -> None:
    (folder / "cracker").write_bytes(cracker)
    spec = folder / "polly.yaml"
    spec.write_text(parrot_spec(folder / "cracker", load=load).model_dump_json(exclude_defaults=True))
    served = serve(
        str(ROOT / "bentos" / "llm"),
        "--arg",
        f"model={spec}",
        env={"PYTHONPATH": parrot_path, "EKIBEN_HOME": str(folder / "home")},
    )
    assert served.process.wait(timeout=30) == 1
    assert reason in served.log
    assert "Traceback" not in served.log


def test_a_worker_that_dies_is_not_started_again_for_ever(
    serve: Serve, folder: Path, parrot_path: str
) -> None:
    (folder / "cracker").write_bytes(b"cracker")
    spec = folder / "polly.yaml"
    spec.write_text(parrot_spec(folder / "cracker").model_dump_json(exclude_defaults=True))
    served = serve(
        "bentos.llm.service:Llm",
        env={"PYTHONPATH": parrot_path, "EKIBEN_HOME": str(folder / "home"), "EKIBEN_MODEL": str(spec)},
    ).wait_until_ready()
    (worker,) = served.workers
    worker.kill()
    assert served.process.wait(timeout=30) != 0
