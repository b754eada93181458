"""Folders that are not a Whisper model, or no longer one, end in a sentence that says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import Device, LoadFailed, LoadRequest, ModelSpec, SourceSpec, Variant
from ekiben_faster_whisper.engine import FasterWhisper


def request(folder: Path, **options: Any) -> LoadRequest:
    variant = Variant(format="ctranslate2", engine="faster_whisper", source=SourceSpec(kind="local"))
    model = {"name": "m", "family": "audio", "abilities": ["transcribe"], "variants": [variant]}
    defaults = {"compute_type": "auto", "beam_size": 1, "vad_filter": False, "max_duration_s": 60}
    return LoadRequest(
        model=ModelSpec.model_validate(model),
        variant=variant,
        weights=folder,
        options=defaults | options,
        device=Device(),
        threads=1,
        scratch=folder,
        report=lambda _: None,
    )


@pytest.fixture
def folder(weights: Callable[[str], Path], tmp_path: Path) -> Path:
    """A whole model, whose files can be replaced one by one."""
    for file in weights("whisper-base").iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.bin", lambda data: data[:1_000_000]),
        ("model.bin", lambda data: b""),
        ("model.bin", lambda data: os.urandom(100_000)),
        ("model.bin", lambda data: data[:4] + b"\xff" * 200 + data[204:400_000]),
        ("tokenizer.json", lambda data: b"{}"),
        ("config.json", lambda data: b"{nope"),
    ],
)
async def test_damaged_files(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / name).write_bytes(damage(data))
    with pytest.raises(LoadFailed, match="cannot be loaded"):
        await FasterWhisper().load(request(folder))


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
async def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(LoadFailed, match=f"lacks {name}"):
        FasterWhisper().estimate_memory(request(folder))
    with pytest.raises(LoadFailed, match=f"lacks {name}"):
        await FasterWhisper().load(request(folder))


async def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="is not a folder"):
        await FasterWhisper().load(request(tmp_path / "nothing"))


async def test_arithmetic_that_the_machine_lacks(folder: Path) -> None:
    with pytest.raises(LoadFailed, match="float16"):
        await FasterWhisper().load(request(folder, compute_type="float16"))
