"""What a platform says when something it needs is not there: an engine, or room on the disk (row D7)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.running import Platform

MODEL = "smollm2-135m-instruct"
MANIFEST = """
id = "thirsty"
kind = "engine"
api = 1
name = "Thirsty"
summary = "Needs what nobody has"
object = "ekiben_thirsty.engine:Thirsty"
requires = ["no-such-distribution>=1"]

[engine]
families = ["llm"]
abilities = ["chat"]
formats = ["gguf"]
"""


def ask(platform: Platform, model: str) -> Any:
    return platform.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hi."}], max_tokens=4
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed plugin whose requirement is missing."""
    package, info = tmp_path / "ekiben_thirsty", tmp_path / "ekiben_thirsty-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.toml").write_text(MANIFEST)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ekiben-thirsty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ekiben.plugins]\nthirsty = ekiben_thirsty\n")
    return tmp_path


def test_missing_engine_is_told_with_the_command_that_mends_it(
    make_platform: Callable[..., Platform], site: Path, weights: Callable[[str], Path]
) -> None:
    platform = make_platform(env={"PYTHONPATH": str(site)}).start()
    spec = {
        "name": "dry",
        "family": "llm",
        "abilities": ["chat"],
        "variants": [
            {"format": "gguf", "engine": "thirsty", "source": {"kind": "local", "path": str(weights(MODEL))}}
        ],
    }
    assert platform.post("/api/models", {"spec": spec})["error"] is None
    with pytest.raises(openai.APIStatusError) as caught:
        ask(platform, "dry")
    assert caught.value.status_code == 502
    assert caught.value.code == "engine_not_installed"
    assert "ekiben engine install thirsty" in caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert ask(platform, MODEL).choices[0].message.content, "others are not harmed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_d7_disk_full_of_weights_is_told_and_breaks_nothing(
    small_disk: Path, weights: Callable[[str], Path]
) -> None:
    platform = Platform(small_disk / "home", None).start()
    try:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(platform, MODEL)
        assert caught.value.code == "weights_unavailable"
        assert "disk" in caught.value.message or "space" in caught.value.message
        assert platform.model(MODEL)["state"] == "failed"
        added = platform.post("/api/models", {"path": str(weights(MODEL)), "name": "elsewhere"})
        assert added["error"] is None, added
        assert ask(platform, "elsewhere").choices[0].message.content, "what needs no room is served"
    finally:
        assert platform.stop() == 0
    leftover = [
        path for path in (small_disk / "home" / "weights").rglob("*.gguf") if ".part" not in str(path)
    ]
    assert leftover == [], "no half file lies where a loader would take it"
