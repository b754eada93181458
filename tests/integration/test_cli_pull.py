"""`ekiben pull` from a hub: progress, interruption, going on, and two at once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.servers import HuggingFaceHub

MB = 1 << 20
FILE = "tiny.gguf"
SPEC = f"""\
name: tiny
family: llm
abilities: [chat]
variants:
  - format: gguf
    engine: llama_cpp
    source: {{kind: huggingface, repo: org/tiny, revision: {HuggingFaceHub.commit}, file: {FILE}}}
"""


@pytest.fixture
def hub() -> HuggingFaceHub:
    return HuggingFaceHub("org/tiny", {FILE: bytes(range(256)) * (40 * MB // 256)})


@pytest.fixture
def run(hub: HuggingFaceHub, tmp_path: Path) -> Iterator[CommandLine]:
    with hub.running() as url:
        run = CommandLine(tmp_path / "home", env={"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"})
        (tmp_path / "tiny.yaml").write_text(SPEC)
        added = run("model", "add", str(tmp_path / "tiny.yaml"))
        assert added.returncode == 0, added.stderr
        yield run


def test_interrupted_it_keeps_what_has_come_and_goes_on_from_there(
    hub: HuggingFaceHub, run: CommandLine
) -> None:
    hub.stop_after_bytes = 25 * MB
    with run.started("pull", "tiny", stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None and process.stdout is not None
        assert hub.stopped.wait(60)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(30) == 130, said
    assert "what has come is kept" in said and "ekiben pull tiny" in said
    assert "Traceback" not in said
    assert run.json("model", "show", "tiny")["weights"] is None

    hub.stop_after_bytes = None
    hub.go_on.set()
    hub.served_bytes = 0
    done = run("pull", "tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny: 41.9 MB in ") and done.stdout.rstrip().endswith(FILE)
    assert 0 < hub.served_bytes < 35 * MB
    assert run.json("model", "show", "tiny")["weights_bytes"] == 40 * MB

    hub.requests.clear()
    assert run("pull", "tiny").returncode == 0
    assert hub.requests == []


def test_progress_is_told_in_lines_where_there_is_no_terminal(hub: HuggingFaceHub, run: CommandLine) -> None:
    hub.stop_after_bytes = 25 * MB
    with run.started("pull", "tiny", stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        first = process.stderr.readline().decode()
        assert first.startswith("tiny: ") and first.rstrip().endswith("%)")
        hub.go_on.set()
        rest = process.stderr.read().decode()
        assert process.wait(60) == 0, rest
    assert "\x1b" not in first + rest and "\r" not in first + rest


def test_two_at_once_share_one_download(hub: HuggingFaceHub, run: CommandLine) -> None:
    hub.stop_after_bytes = 25 * MB
    with (
        run.started("pull", "tiny", stdin=subprocess.DEVNULL) as one,
        run.started("pull", "tiny", stdin=subprocess.DEVNULL) as two,
    ):
        assert hub.stopped.wait(60)
        hub.go_on.set()
        for process in (one, two):
            _, complaints = process.communicate(timeout=60)
            assert process.returncode == 0, complaints
    assert hub.served_bytes < 45 * MB


def test_what_the_hub_refuses_is_told(hub: HuggingFaceHub, run: CommandLine) -> None:
    hub.token = "hf_right"
    refused = run("pull", "tiny")
    assert refused.returncode == 1
    assert "HF_TOKEN" in refused.stderr and "Traceback" not in refused.stderr
    allowed = CommandLine(run.home, env={**run.env, "HF_TOKEN": "hf_right"})
    assert allowed("pull", "tiny").returncode == 0
