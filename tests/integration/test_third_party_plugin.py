"""A plugin from elsewhere: installed with pip, listed, checked, and serving, with nothing of ours changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.command_line import CommandLine, make_interpreter
from tests.running import Platform

FIXTURES = Path(__file__).parents[1] / "fixtures"
SAMPLE = FIXTURES / "ekiben-sample-plugin"
BROKEN = FIXTURES / "ekiben-broken-plugins"
FIRST_PARTY = {
    *("faster_whisper", "llama_cpp", "piper", "rapidocr"),
    *("sentence_transformers", "transformers", "vllm"),
}
ELSEWHERE = {"vllm"}
"""Made for an environment of its own."""


class ScratchPlatform(Platform):
    """`ekiben up` of another interpreter."""

    python = sys.executable

    def command(self, *arguments: str) -> list[str]:
        return [self.python, *super().command(*arguments)[1:]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the sample plugin and the broken ones, but for the one that hangs."""
    folder = tmp_path_factory.mktemp("scratch") / "venv"
    broken = [BROKEN / name for name in ("hollow", "stumble", "thief", "tomorrow")]
    return make_interpreter(folder, SAMPLE, *broken)


@pytest.fixture
def run(python: str, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home", python=python)


@pytest.fixture(scope="module")
def platform(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchPlatform]:
    platform = ScratchPlatform(tmp_path_factory.mktemp("home") / "h", None, "--keep-alive", "never")
    platform.python = python
    platform.start()
    yield platform
    assert platform.stop() == 0


def by_id(listing: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for item in listing:
        found.setdefault(item["id"], []).append(item)
    return found


def test_it_is_listed_with_what_its_manifest_says(run: CommandLine) -> None:
    (shout,) = by_id(run.json("engine", "ls"))["shout"]
    assert shout["status"] == "ready" and shout["installed"]
    assert (shout["distribution"], shout["version"]) == ("ekiben-shout", "1.2.3")
    assert (shout["abilities"], shout["formats"]) == (["chat"], ["text"])
    assert "ekiben-shout" in run("engine", "ls").stdout


def test_broken_ones_are_listed_and_take_nobody_along(run: CommandLine) -> None:
    engines = by_id(run.json("engine", "ls"))
    assert engines.keys() >= FIRST_PARTY | {"shout", "stumble", "hollow", "tomorrow"}
    (tomorrow,) = engines["tomorrow"]
    assert tomorrow["status"] == "broken" and "API 99" in tomorrow["reason"]
    ours, thief = engines["llama_cpp"]
    assert (ours["distribution"], ours["status"]) == ("ekiben", "ready")
    assert (thief["distribution"], thief["status"]) == ("ekiben-thief", "broken")


def test_doctor_tells_of_each_what_is_wrong_and_what_mends_it(run: CommandLine) -> None:
    assert run("engine", "doctor", "shout").returncode == 0
    expected = {
        "stumble": ("libcracker.so.7", "--force-reinstall ekiben-stumble"),
        "hollow": ("has no estimate_memory and no load", "--force-reinstall ekiben-hollow"),
        "tomorrow": ("API 99", "--force-reinstall ekiben-tomorrow"),
    }
    for name, (problem, fix) in expected.items():
        done = run("engine", "doctor", name, "--json")
        assert done.returncode == 1
        (finding,) = json.loads(done.stdout)
        assert finding["status"] == "broken" and problem in finding["problem"], finding
        assert finding["fix"].endswith(fix), finding
    _, thief = json.loads(run("engine", "doctor", "llama_cpp", "--json").stdout)
    assert "'llama_cpp' is the name of a plugin of ekiben" in thief["problem"]
    assert thief["fix"].endswith("pip uninstall ekiben-thief")


def test_a_plugin_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    run = CommandLine(tmp_path / "home", python=make_interpreter(tmp_path / "venv", BROKEN / "sleeper"))
    done = run("engine", "doctor", "sleeper", "--deadline", "4")
    assert done.returncode == 1
    assert "does not come to an end within 4 s" in done.stdout
    assert "--force-reinstall ekiben-sleeper" in done.stdout
    assert "must not reach the user" not in done.stdout + done.stderr
    left = [p for p in psutil.process_iter(["cmdline"]) if "left-by-sleeper" in (p.info["cmdline"] or ())]
    assert left == []


@pytest.mark.parametrize(("name", "code"), [("shout", 0), ("stumble", 1), ("tomorrow", 1), ("nobody", 1)])
def test_the_exit_code_is_about_the_one_that_was_asked_for(run: CommandLine, name: str, code: int) -> None:
    done = run("engine", "doctor", name)
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stderr


def test_it_passes_the_conformance_suite(run: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "ending.txt").write_text("!\n")
    script = tmp_path / "conform.py"
    script.write_text(
        "import asyncio, pathlib\n"
        "from ekiben.catalog.specs import load_spec_file\n"
        "from ekiben.contract import testing\n"
        "from ekiben.plugins.discovery import discover, load_object\n"
        "plugins = discover()\n"
        "plugin = plugins.usable['shout']\n"
        "testing.check_manifest(plugin.manifest)\n"
        "testing.check_import(plugin.manifest)\n"
        f"spec = load_spec_file(pathlib.Path({str(SAMPLE / 'shout.yaml')!r}), plugins=plugins)\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "request = testing.load_request(spec, folder / 'ending.txt', scratch=folder)\n"
        "asyncio.run(testing.check_engine(load_object(plugin), request))\n"
    )
    done = subprocess.run([run.python, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_serves_a_model_that_is_added_to_a_running_platform(
    platform: ScratchPlatform, tmp_path: Path
) -> None:
    run = CommandLine(platform.home, python=platform.python)
    weights = tmp_path / "ending.txt"
    weights.write_text("!\n")
    spec = tmp_path / "clerk.yaml"
    spec.write_text((SAMPLE / "shout.yaml").read_text().replace("/path/to/ending.txt", str(weights)))
    assert run("model", "add", str(spec)).returncode == 0
    messages: Any = [{"role": "user", "content": "mind the gap"}]
    answer = platform.client.chat.completions.create(model="shouting-clerk", messages=messages)
    assert answer.choices[0].message.content == "MIND THE GAP!"
    stream = platform.client.chat.completions.create(model="shouting-clerk", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "MIND THE GAP!"
    (replica,) = platform.model("shouting-clerk")["replicas"]
    assert replica["engine"] == "shout"
    with pytest.raises(openai.BadRequestError, match="must be a text"):
        platform.client.chat.completions.create(
            model="shouting-clerk",
            messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        )
    assert run("model", "rm", "shouting-clerk").returncode == 0
    with pytest.raises(openai.NotFoundError):
        platform.client.chat.completions.create(model="shouting-clerk", messages=messages)


def test_a_model_of_a_broken_engine_cannot_be_added_and_says_why(run: CommandLine, tmp_path: Path) -> None:
    spec = tmp_path / "clerk.yaml"
    spec.write_text((SAMPLE / "shout.yaml").read_text().replace("engine: shout", "engine: tomorrow"))
    done = run("model", "add", str(spec))
    assert done.returncode == 2
    assert "API 99" in done.stderr


def test_a_model_whose_engine_fails_to_import_fails_alone(platform: ScratchPlatform, tmp_path: Path) -> None:
    run = CommandLine(platform.home, python=platform.python)
    (tmp_path / "x.txt").write_text("!")
    spec = tmp_path / "clerk.yaml"
    text = (SAMPLE / "shout.yaml").read_text().replace("/path/to/ending.txt", str(tmp_path / "x.txt"))
    text = text.replace("engine: shout", "engine: stumble").partition("    options:")[0]
    spec.write_text(text.replace("shouting-clerk", "stumbling-clerk"))
    assert run("model", "add", str(spec)).returncode == 0
    done = run("load", "stumbling-clerk")
    assert done.returncode == 1
    assert "libcracker.so.7" in done.stderr and "Traceback" not in done.stderr
    assert platform.get("/api/models")["models"]
