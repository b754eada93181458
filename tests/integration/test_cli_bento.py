"""`ekiben bento`: the families' Bentos, built by BentoML itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.command_line import CommandLine, assert_fails


@pytest.fixture
def run(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home", env={"BENTOML_HOME": str(tmp_path / "bentoml")})


def test_families_are_listed_with_their_engines(run: CommandLine) -> None:
    bentos = {bento["family"]: bento for bento in run.json("bento", "ls")}
    assert bentos.keys() == {"llm", "embedding", "vision", "audio"}
    assert bentos["audio"]["engines"] == ["faster_whisper", "kokoro", "piper", "transformers", "whisper"]
    for bento in bentos.values():
        assert bento["latest"] is None
        assert (Path(bento["folder"]) / "service.py").is_file()


def test_a_built_bento_is_in_the_store_with_its_model(run: CommandLine) -> None:
    done = run("bento", "build", "llm", "--model", "smollm2-135m-instruct")
    assert done.returncode == 0, done.stderr
    tag = done.stdout.removeprefix("built ").strip()
    name, _, version = tag.partition(":")
    assert name == "ekiben-llm"
    built = Path(run.env["BENTOML_HOME"]) / "bentos" / name / version / "bento.yaml"
    assert yaml.safe_load(built.read_text())["args"] == {"model": "smollm2-135m-instruct"}
    (llm,) = [bento for bento in run.json("bento", "ls") if bento["family"] == "llm"]
    assert llm["latest"] == version


def test_a_model_that_the_bento_cannot_serve_is_refused_before_it_is_built(run: CommandLine) -> None:
    assert_fails(run("bento", "build", "llm", "--model", "whisper-base"), "family audio", code=2)
    assert_fails(run("bento", "build", "llm", "--model", "nobody"), "'nobody'", code=2)
    assert run("bento", "build", "lm").returncode == 2


def test_an_image_needs_something_that_builds_it(run: CommandLine, tmp_path: Path) -> None:
    bare = CommandLine(run.home, env={**run.env, "PATH": str(tmp_path)})
    assert_fails(bare("bento", "containerize", "llm"), "docker", "podman")
    assert_fails(bare("bento", "containerize", "llm", "--backend", "podman"), "podman is not installed")
    assert not Path(run.env["BENTOML_HOME"]).exists()


def test_what_the_builder_says_is_passed_on(run: CommandLine, tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho no daemon here >&2\nexit 1\n")
    docker.chmod(0o755)
    there = CommandLine(run.home, env={**run.env, "PATH": f"{docker.parent}:/usr/bin:/bin"})
    done = there("bento", "containerize", "llm")
    assert done.returncode == 1
    assert "error: bentoml containerize failed" in done.stderr and "Traceback" not in done.stderr
