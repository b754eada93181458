"""Adapters that are added to a model which runs: no request fails, and each gets what it asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import tiny_gguf
from tests.command_line import CommandLine, assert_fails
from tests.running import Platform, wait_until

WORDS: Any = [{"role": "user", "content": "what?"}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    base = tiny_gguf.llama_model(folder / "base.gguf")
    tiny_gguf.adapter(folder / "loud.gguf", base)
    return folder


def say(platform: Platform, model: str) -> str:
    answer = platform.client.chat.completions.create(model=model, messages=WORDS, temperature=0, max_tokens=8)
    return answer.choices[0].message.content or ""


class Asker:
    """One client that asks without a pause."""

    def __init__(self, platform: Platform, model: str) -> None:
        self.answers: list[str] = []
        self.failures: list[openai.OpenAIError] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(platform, model))

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self, platform: Platform, model: str) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(say(platform, model))
            except openai.OpenAIError as error:
                self.failures.append(error)


def replicas(platform: Platform) -> set[str]:
    return {replica["id"] for replica in platform.model("base")["replicas"] if replica["state"] == "ready"}


def test_an_adapter_joins_a_model_that_is_busy(platform: Platform, files: Path) -> None:
    run = CommandLine(platform.home)
    assert run("model", "add", str(files / "base.gguf"), "--name", "base").returncode == 0
    plain = say(platform, "base")
    first = replicas(platform)
    with Asker(platform, "base") as asker:
        done = run("model", "add", str(files / "loud.gguf"), "--adapter-of", "base")
        assert (done.returncode, done.stdout) == (0, "added base:loud (made for llama)\n"), done.stderr
        loud = say(platform, "base:loud")
        wait_until(lambda: (replicas(platform) - first) or None, "a replica with the adapter")
    assert not asker.failures
    assert set(asker.answers) == {plain}
    assert loud != plain
    assert say(platform, "base:loud") == loud
    (replica,) = replicas(platform)
    assert replica not in first

    shown = run("model", "show", "base").stdout
    assert f"adapter loud  {files / 'loud.gguf'}" in shown
    again = run("model", "add", str(files / "loud.gguf"), "--adapter-of", "base")
    assert_fails(again, "the model 'base' has an adapter 'loud' already")
    assert run("model", "rm", "base:loud").stdout == "removed base:loud\n"
    with pytest.raises(openai.NotFoundError):
        say(platform, "base:loud")
    assert say(platform, "base") == plain
