"""The platform as one Bento: `bentoml serve .` at the root is `ekiben up`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import yaml

from tests.bentos.processes import BENTOML, ROOT, Served

MODEL = "smollm2-135m-instruct"
QUESTION: Any = [{"role": "user", "content": "Name three fruits."}]


@pytest.fixture
def home(folder: Path, weights: Callable[[str], Path], weights_home: Path) -> Path:
    weights(MODEL)
    home = folder / "home"
    home.mkdir()
    (home / "weights").symlink_to(weights_home / "weights")
    return home


def ask(served: Served) -> str | None:
    with served.openai as client:
        answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=30)
    return answer.choices[0].message.content


def test_bentoml_serve_is_the_platform(serve: Callable[..., Served], home: Path) -> None:
    served = serve(".", env={"EKIBEN_HOME": str(home)}).wait_until_ready()
    with served.openai as client:
        assert MODEL in [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"
    assert "Bananas" in (ask(served) or "")
    assert served.get(f"/api/models/{MODEL}").json()["state"] == "ready"
    everybody = served.workers
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(timeout=60) == 0
    wait_for_end(everybody)


def test_nothing_outlives_its_supervisor(serve: Callable[..., Served], home: Path) -> None:
    """Nor for longer than it is told to."""
    served = serve(".", env={"EKIBEN_HOME": str(home), "EKIBEN_ORPHAN_S": "1"}).wait_until_ready()
    assert ask(served)
    everybody = served.workers
    assert len(everybody) >= 2
    served.process.kill()
    served.process.wait()
    wait_for_end(everybody)


def test_home_in_use_ends_with_the_reason(serve: Callable[..., Served], home: Path) -> None:
    serve(".", env={"EKIBEN_HOME": str(home)}).wait_until_ready()
    second = serve(".", env={"EKIBEN_HOME": str(home)})
    assert second.process.wait(timeout=60) != 0
    assert "another platform runs" in second.log


def test_root_builds_and_serves_from_the_store(
    serve: Callable[..., Served], folder: Path, home: Path
) -> None:
    store = folder / "bentoml"
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "UV_OFFLINE": "1"}
    done = subprocess.run(
        [BENTOML, "build", "."],
        cwd=ROOT,
        env=os.environ | offline | {"BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (store / "bentos" / "ekiben").glob("*/bento.yaml")
    assert yaml.safe_load(path.read_text())["service"] == "ekiben.service:Platform"
    source = path.parent / "src"
    assert (source / "platform" / "ekiben" / "app.py").is_file()
    assert (source / "bentos" / "llm" / "service.py").is_file()
    served = serve("ekiben:latest", env={"EKIBEN_HOME": str(home)}).wait_until_ready()
    assert "Bananas" in (ask(served) or "")


def wait_for_end(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 20
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)
