"""Every command of the README, run as it stands; only the address, the key and the folder are changed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.running import Platform

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:3000"
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block(language: str, marker: str) -> str:
    (found,) = [text for text in blocks(language) if marker in text]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: Callable[[str], Path]) -> Path:
    """Where a reader stands: with two pictures, a model file and the YAML of the README beside them."""
    folder = tmp_path_factory.mktemp("reader")
    image = Image.new("RGB", (640, 160), "white")
    ImageDraw.Draw(image).text((20, 40), "Tokyo Station", "black", ImageFont.load_default(size=56))
    file = BytesIO()
    image.save(file, "PNG")
    (folder / "sign.png").write_bytes(file.getvalue())
    flower = files("sklearn.datasets") / "images" / "flower.jpg"
    (folder / "flower.jpg").write_bytes(flower.read_bytes())
    (folder / "my-model.gguf").symlink_to(weights("smollm2-135m-instruct"))
    (folder / "my-model.yaml").write_text(block("yaml", "name: my-model"))
    return folder


def run(command: str, platform: Platform, folder: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("EKIBEN_")}
    env |= {"EKIBEN_HOME": str(platform.home), "PATH": f"{BIN}:{env['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace(ADDRESS, platform.url)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("/v1/chat/completions", '"assistant"'),
        ("/v1/audio/transcriptions", "train is on time"),
        ("/v1/images/ocr", "Tokyo"),
        ("/v1/images/classify", "daisy"),
        ("/v1/embeddings", '"embedding"'),
    ],
)
def test_curl(platform: Platform, folder: Path, marker: str, expected: str) -> None:
    assert expected in run(block("sh", marker), platform, folder)


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("stream=True", "Bananas"),
        ("audio.transcriptions", "train is on time"),
        ("embeddings.create", "2 384"),
        ("responses.create", "complete"),
        ("batches.create", "total=100) 100"),
    ],
)
def test_python(platform: Platform, folder: Path, marker: str, expected: str) -> None:
    program = block("python", marker).replace(
        'model="smollm2-135m-instruct",', 'model="smollm2-135m-instruct", temperature=0,'
    )
    assert expected in run(f"python -c {shlex.quote(program)}", platform, folder)


def test_a_picture_is_drawn(platform: Platform, folder: Path) -> None:
    run(f"python -c {shlex.quote(block('python', 'images.generate'))}", platform, folder)
    with Image.open(folder / "seven.png") as picture:
        assert picture.size == (32, 32)


@pytest.mark.parametrize("line", block("sh", "ekiben model ls").strip().splitlines())
def test_command(platform: Platform, folder: Path, line: str) -> None:
    output = run(line, platform, folder)
    if line.startswith(("ekiben model ls", "ekiben ps", "ekiben engine", "ekiben config", "ekiben run")):
        assert output.strip()


def test_add_a_model(platform: Platform, folder: Path) -> None:
    run(block("sh", "model add ./my-model.gguf"), platform, folder)
    assert platform.model("my-model")["spec"]["variants"][0]["engine"] == "llama_cpp"
    run("ekiben model rm my-model", platform, folder)
    run(block("sh", "model add my-model.yaml"), platform, folder)
    assert platform.model("my-model")["spec"]["keep_alive"] == "10m"


def test_engine_install_of_what_is_there(platform: Platform, folder: Path) -> None:
    commands = block("sh", "engine install sentence_transformers").replace(".venv/bin/ekiben", "ekiben")
    for command in commands.strip().splitlines():
        assert run(f"{command} --dry-run", platform, folder).strip()


def test_engines_in_environments_of_their_own(platform: Platform, folder: Path) -> None:
    """What takes minutes is only asked for its help: building and removing have tests of their own."""
    listing, *others = block("sh", "engine install vllm").strip().splitlines()
    assert "vllm" in run(listing, platform, folder)
    for command in others:
        program, group, name, *_ = command.split()
        assert "Usage:" in run(f"{program} {group} {name} --help", platform, folder)


@pytest.fixture(scope="module")
def bento(weights_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The README's `bentoml serve`, on a port of its own."""
    command = block("sh", "bentoml serve").strip().replace("--port 3001", "--port 3941")
    env = {k: v for k, v in os.environ.items() if not k.startswith("EKIBEN_")} | {
        "EKIBEN_HOME": str(weights_home),
        "BENTOML_HOME": str(tmp_path_factory.mktemp("bentoml")),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    child = subprocess.Popen(["bash", "-c", command], cwd=ROOT, env=env, start_new_session=True)
    yield "http://127.0.0.1:3941"
    os.killpg(child.pid, signal.SIGTERM)
    child.wait(timeout=60)


def test_one_bento_alone(bento: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"{bento}/readyz", timeout=5) as response:
                assert response.status == 200
            break
        except OSError:
            assert time.monotonic() < deadline, "bentoml serve was not ready in time"
            time.sleep(0.2)
    with urllib.request.urlopen(f"{bento}/v1/models", timeout=5) as response:
        assert b"smollm2-135m-instruct" in response.read()


def test_make_serve_prints_lines_that_work(weights_home: Path, tmp_path: Path) -> None:
    """`make serve` in this environment, then what it says to try, exactly as printed."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "weights").symlink_to(weights_home / "weights")
    env = {k: v for k, v in os.environ.items() if not k.startswith("EKIBEN_")} | {
        "EKIBEN_HOME": str(home),
        "EKIBEN_PORT": "0",
    }
    with subprocess.Popen(
        ["make", "serve", f"VENV={sys.prefix}"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            said = read_until(child, "Stop: Ctrl-C")
            curl, _, program = said.partition("Try it:")[2].partition("Or in Python:")
            assert "assistant" in shell(curl)
            lines = program.partition("All models:")[0].strip()
            assert len(lines.splitlines()) == 4
            assert shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(lines)}").strip()
        finally:
            os.killpg(child.pid, signal.SIGINT)
            child.wait(timeout=60)


def read_until(child: subprocess.Popen[str], marker: str) -> str:
    assert child.stdout is not None
    said: list[str] = []
    for line in child.stdout:
        said.append(line)
        if marker in line:
            return "".join(said)
    raise AssertionError(f"make serve ended:\n{''.join(said)}")


def shell(command: str) -> str:
    done: Any = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
