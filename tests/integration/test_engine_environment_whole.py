"""An engine's environment as users build it: all that the platform requires, from this machine's index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.command_line import CommandLine
from tests.running import Platform


@pytest.mark.slow
def test_an_engine_lives_in_an_environment_that_has_everything(
    ekiben_home: Path, weights_home: Path, weights: Any
) -> None:
    run = CommandLine(ekiben_home, env={"PYTHONPATH": ""}, timeout_s=540)
    weights("smollm2-135m-instruct")
    done = run("engine", "install", "llama_cpp", "--rebuild", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = run.json("engine", "show", "llama_cpp")
    assert shown["packages"].keys() >= {"bentoml", "openai", "pydantic", "xllamacpp"}

    platform = Platform(ekiben_home, weights_home / "weights", env={"PYTHONPATH": ""}).start()
    try:
        answer = platform.client.chat.completions.create(
            model="smollm2-135m-instruct",
            messages=[{"role": "user", "content": "Name three fruits."}],
            max_tokens=4,
        )
        assert answer.choices[0].message.content
        replica = psutil.Process(platform.replica_pid("smollm2-135m-instruct"))
        assert replica.cmdline()[0] == shown["interpreter"]
        assert any(shown["environment"]["folder"] in map.path for map in replica.memory_maps())
    finally:
        assert platform.stop() == 0
