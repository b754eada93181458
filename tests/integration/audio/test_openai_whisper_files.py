"""OpenAI's Whisper: files that are whole give the same numbers, and others are refused in a sentence."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ekiben.contract import LoadFailed
from tests.openai_whisper import ENGINE, SMALL, drawn, load, order

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("small") / "small.pt", SMALL)


def test_the_same_numbers_from_every_kind_of_file(small: Path, tmp_path: Path) -> None:
    state = torch.load(small, weights_only=True)["model_state_dict"]
    save_file(state, tmp_path / "small.safetensors", metadata={"dims": json.dumps(SMALL)})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").hardlink_to(tmp_path / "small.safetensors")
    for path in (small, tmp_path / "small.safetensors", tmp_path / "folder"):
        found = load(path, tmp_path)._model.state_dict()
        assert set(found) == set(state)
        assert all(torch.equal(found[name], state[name].float()) for name in state)


LATE = """
import importlib, sys
from pathlib import Path
from ekiben.plugins.discovery import discover
from tests.openai_whisper import load
for name in discover().usable["whisper"].manifest.engine.preload:
    importlib.import_module(name)
before = set(sys.modules)
load(Path(sys.argv[1]), Path(sys.argv[2]))
print(*(name for name in set(sys.modules) - before if not name.startswith(("ekiben", "encodings"))))
"""


@pytest.mark.slow
def test_a_load_imports_nothing_that_was_not_imported_ahead(small: Path, tmp_path: Path) -> None:
    """Such as torch's compilers, which take longer than the load."""
    command = [sys.executable, "-W", "ignore", "-c", LATE, str(small), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (b"", "is empty"),
        (b"\x06\0\0", "ends in the middle"),
        (b"PK\3\4" + bytes(20), "not a CTranslate2 file of version"),
        (b"\x06\0\0\0\x10\0TransformerSpec\0", "not of a Whisper model"),
        (b"\x06\0\0\0\x0c\0WhisperSpec\0\3\0\0\0\xff\xff\xff\xff", "ends in the middle"),
        (
            b"\x06\0\0\0\x0c\0WhisperSpec\0\3\0\0\0\1\0\0\0\2\0a\0\2\xff\xff\xff\xff\xff\xff\xff\xff\x04\x08\0\0\0",
            "is damaged",
        ),
        (b"\x06\0\0\0\x0c\0WhisperSpec\0\3\0\0\0\0\0\0\0", "has no encoder/conv1/weight"),
    ],
)
def test_a_broken_file_of_ctranslate2_is_refused(tmp_path: Path, begin: bytes, expected: str) -> None:
    (tmp_path / "model.bin").write_bytes(begin)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadFailed, match=expected):
        ENGINE.estimate_memory(order(tmp_path, tmp_path))


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("trapped"),))


def dims_of(**other: int) -> bytes:
    return pickle.dumps({"dims": SMALL | other, "model_state_dict": {}}, protocol=2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (dims_of(n_text_layer=10**9), "n_text_layer 1000000000, which no Whisper model has"),
        (dims_of(n_vocab=32000), "n_vocab 32000"),
        (dims_of(n_audio_head=3), "n_audio_head 3"),
        (dims_of(), "lacks tensors"),
        (pickle.dumps({"dims": SMALL, "model_state_dict": Trap()}, protocol=2), "cannot be loaded"),
        (pickle.dumps({"weights": 1}, protocol=2), "does not say its n_mels"),
        (b"\x80\x02X\xff\xff\xff\xff", "damaged"),
    ],
)
def test_a_broken_checkpoint_is_refused_and_never_run(
    tmp_path: Path, content: bytes, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/version", b"3\n")
        archive.writestr("model/byteorder", b"little")
    with pytest.raises(LoadFailed, match=expected):
        load(path, tmp_path)
    assert not Path("trapped").exists()


def test_few_bytes_that_claim_to_be_many_numbers_are_refused(small: Path, tmp_path: Path) -> None:
    whole = torch.load(small, weights_only=True)["model_state_dict"]
    one = torch.zeros(1, dtype=torch.float16)
    spread = {name: one.expand(tensor.shape) for name, tensor in whole.items()}
    shared = torch.zeros(max(tensor.numel() for tensor in whole.values()), dtype=torch.float16)
    views = {name: shared[: tensor.numel()].view(tensor.shape) for name, tensor in whole.items()}
    for state, expected in ((spread, "lacks tensors"), (views, "more than its size")):
        torch.save({"dims": SMALL, "model_state_dict": state}, tmp_path / "model.pt")
        with pytest.raises(LoadFailed, match=expected):
            load(tmp_path / "model.pt", tmp_path)


def archives() -> Iterator[tuple[str, bytes, str]]:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(10**6))
    yield "bomb.pt", bomb.getvalue(), "is compressed"
    yield "bare.pt", pickle.dumps({"dims": SMALL}), "not a checkpoint that torch has written"
    yield "text.pt", b"hello", "not a checkpoint that torch has written"
    yield "cut.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "cannot be read"
    yield "nothing.safetensors", b"\2\0\0\0\0\0\0\0{}", "does not say its dims"
    yield "model.bin", b"x", "not a checkpoint of Whisper"


@pytest.mark.parametrize(("name", "content", "expected"), list(archives()))
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadFailed, match=expected):
        ENGINE.estimate_memory(order(tmp_path / name, tmp_path))


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"dims": "{"}, "is not what it should be"),
        ({"dims": json.dumps(SMALL | {"n_text_layer": 3})}, "lacks tensors"),
        ({"dims": json.dumps(SMALL), "alignment_heads": "[[2, 0]]"}, "alignment heads"),
    ],
)
def test_lying_metadata_is_refused(small: Path, tmp_path: Path, about: dict[str, str], expected: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(torch.load(small, weights_only=True)["model_state_dict"], path, metadata=about)
    with pytest.raises(LoadFailed, match=expected):
        ENGINE.estimate_memory(order(path, tmp_path))
