"""The official SDKs, in Python and for Node, run one table of scenarios on each engine."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from anthropic import APIStatusError as AnthropicError
from openai import APIStatusError, OpenAI
from openai._legacy_response import HttpxBinaryResponseContent
from openai.types import Batch

from ekiben.contract.testing import blank_png
from tests.conformance.engines import LESS_OFTEN, model_on
from tests.conformance.family_scenarios import FILE, SENTENCE, scenarios
from tests.conformance.scenarios import SCENARIOS, Outcome, Scenario
from tests.running import Platform, wait_until

NODE = Path(__file__).parents[1] / "node"

Runner = Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]]
"""URL and scenarios in, results out, as `tests/node/run.mjs` describes them."""


def run_with_python(url: str, scenarios: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as `tests/node/run.mjs` does."""
    with (
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as openai,
        Anthropic(base_url=url, api_key="none", max_retries=0, timeout=120) as anthropic,
    ):
        clients = {"openai": openai, "anthropic": anthropic}
        return [_run(clients[scenario["client"]], scenario) for scenario in scenarios]


def _run(client: Any, scenario: dict[str, Any]) -> dict[str, Any]:
    snake = re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", scenario["method"])
    method: Any = reduce(getattr, snake.split("."), client)
    given = scenario["arguments"]
    body = given[-1] if given and isinstance(given[-1], dict) else {}
    body = {name: _opened(value) for name, value in body.items()}
    extra = {"extra_body": {"temperature": body.pop("temperature")}} if "temperature" in body else {}
    try:
        answer = method(**body, **extra) if body else method(*given)
        if body.get("stream"):
            return {"events": [event.model_dump(mode="json") for event in answer]}
        if isinstance(answer, HttpxBinaryResponseContent):
            return {"whole": {"bytes": len(answer.content)}}
        return {"whole": answer.model_dump(mode="json")}
    except (APIStatusError, AnthropicError) as error:
        kind = type(error).__name__
        return {"error": {"kind": kind, "status": error.status_code, "body": error.body}}


def _opened(value: Any) -> Any:
    """The SDK takes name and bytes for a file."""
    if isinstance(value, dict) and FILE in value:
        return Path(value[FILE]).name, Path(value[FILE]).read_bytes()
    return value


@pytest.fixture(scope="session")
def run_with_node(weights_home: Path) -> Runner:
    """Installs the SDKs in a cache folder, as the lock file says, the first time."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("the official Node SDKs were not tested: there is no node or no npm here")
    lock = (NODE / "package-lock.json").read_bytes()
    folder = weights_home / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True)
        (folder / ".complete").touch()
    shutil.copy(NODE / "run.mjs", folder)

    def run(url: str, scenarios: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked = json.dumps({"url": url, "scenarios": scenarios})
        done = subprocess.run(
            ["node", "run.mjs"], cwd=folder, input=asked, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        results: list[dict[str, Any]] = json.loads(done.stdout)
        return results

    return run


@pytest.mark.parametrize("engine", LESS_OFTEN)
def test_python(platform: Platform, engine: str) -> None:
    check(platform, engine, run_with_python)


@pytest.mark.parametrize("engine", LESS_OFTEN)
def test_node(platform: Platform, engine: str, run_with_node: Runner) -> None:
    check(platform, engine, run_with_node)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # translations, by their SDK
def test_families_in_python(platform: Platform, tmp_path: Path) -> None:
    check_families(platform, tmp_path, run_with_python)


@pytest.mark.slow
def test_families_in_node(platform: Platform, tmp_path: Path, run_with_node: Runner) -> None:
    check_families(platform, tmp_path, run_with_node)


def check(platform: Platform, engine: str, run: Runner) -> None:
    model = model_on(platform, engine)
    judge(SCENARIOS, run(platform.url, [scenario.asked(model) for scenario in SCENARIOS]))


def check_families(platform: Platform, folder: Path, run: Runner) -> None:
    table = scenarios(
        recording=str(recording(platform, folder)),
        picture=str(picture(folder)),
        requests=str(asked := requests(folder)),
        done=finished_batch(platform, asked),
    )
    judge(table, run(platform.url, [scenario.asked("") for scenario in table]))


def recording(platform: Platform, folder: Path) -> Path:
    with OpenAI(base_url=f"{platform.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        speech = client.audio.speech.create(
            model="piper-en-us-joe", voice="alloy", input=SENTENCE, response_format="wav"
        )
    path = folder / "speech.wav"
    path.write_bytes(speech.content)
    return path


def picture(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_bytes(blank_png(32, 32))
    return path


def requests(folder: Path) -> Path:
    path = folder / "requests.jsonl"
    body = {"model": "all-minilm-l6-v2", "input": "a lunch box"}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/embeddings", "body": body}
    path.write_text(json.dumps(line) + "\n")
    return path


def finished_batch(platform: Platform, requests: Path) -> Batch:
    with OpenAI(base_url=f"{platform.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        file = client.files.create(file=requests, purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
        return wait_until(
            lambda: found if (found := client.batches.retrieve(batch.id)).status == "completed" else None,
            "the batch to be done",
        )


def judge(table: Sequence[Scenario], results: Sequence[dict[str, Any]]) -> None:
    wrong = {}
    for scenario, result in zip(table, results, strict=True):
        try:
            if scenario.check(Outcome(**result)):
                continue
        except (LookupError, TypeError, ValueError) as error:
            result["raised"] = repr(error)
        wrong[scenario.name] = result
    assert not wrong, json.dumps(wrong, indent=1)[:4000]
