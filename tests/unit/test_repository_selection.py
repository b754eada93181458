"""Which files of a model repository are taken, and which never are."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import FetchFailed
from ekiben.contract.delivery import size_text, target_in
from ekiben.contract.repository import RepositoryFile, Selection, refuse_pickle

PICKLE = b"\x80\x04canary"
CTRANSLATE2 = b"\x06\x00\x00\x00binary"


def chosen(paths: list[str], **parameters: Any) -> list[str]:
    files = [RepositoryFile(path=path, size_bytes=1) for path in paths]
    return [file.path for file in Selection.of(parameters).choose(files)]


def test_by_default_one_set_of_weights_and_no_clutter() -> None:
    repository = [
        "model.safetensors", "config.json", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx",
        "pytorch_model.bin", "README.md", ".gitattributes", "assets/picture.png", "modeling.py",
    ]  # fmt: skip
    assert chosen(repository) == ["README.md", "config.json", "model.safetensors"]


def test_other_formats_stay_where_they_are_all_there_is() -> None:
    assert chosen(["onnx/model.onnx", "config.json"]) == ["config.json", "onnx/model.onnx"]
    assert chosen(["model.bin", "config.json", "vocabulary.txt"]) == [
        "config.json",
        "model.bin",
        "vocabulary.txt",
    ]


def test_patterns_override_what_is_left_out_by_default() -> None:
    repository = ["model.safetensors", "onnx/model.onnx", "a.json", "sub/b.json"]
    assert chosen(repository, allow=["onnx/*"]) == ["onnx/model.onnx"]
    assert chosen(repository, allow=["*.json"], ignore=["sub/*"]) == ["a.json"]
    assert chosen(repository, subfolder="onnx/") == ["onnx/model.onnx"]
    assert chosen(repository, file="a.json") == ["a.json"]


@pytest.mark.parametrize(
    ("paths", "parameters", "message"),
    [
        (["pytorch_model.bin"], {}, "the only weights there are pytorch_model.bin: pickles"),
        (["pytorch_model-00001-of-00002.bin", "config.json"], {}, "pickles"),
        (["weights.PT"], {}, "pickles"),
        (["model.ckpt"], {"file": "model.ckpt"}, "pickles"),
        (["model.safetensors", "a.pth"], {"allow": ["*.pth"]}, "pickles"),
        (["model.safetensors", "a.py"], {"allow": ["*.py"]}, "no weights that match '\\*.py'"),
        (["model.safetensors"], {"file": "other.gguf"}, "no weights that match 'other.gguf'"),
        (["model.safetensors"], {"subfolder": "nowhere"}, "no weights that match 'nowhere'"),
        (["config.json"], {}, "no weights in a format that is safe to load"),
        ([], {}, "no weights"),
        (["a.gguf"], {"allow": [1]}, "'allow' must be a list of patterns"),
        (["a.gguf"], {"ignore": [None]}, "'ignore' must be a list of patterns"),
    ],
)
def test_what_has_no_safe_weights_is_refused(
    paths: list[str], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(FetchFailed, match=message):
        chosen(paths, **parameters)


def test_what_engines_get(tmp_path: Path) -> None:
    assert Selection.of({}).loader_path(tmp_path) == tmp_path
    assert Selection.of({"file": "a/b.gguf"}).loader_path(tmp_path) == tmp_path / "a" / "b.gguf"
    assert Selection.of({"subfolder": "/a/"}).loader_path(tmp_path) == tmp_path / "a"


def test_pickles_are_known_by_what_they_are(tmp_path: Path) -> None:
    """Row G1: renamed, and zipped as torch does."""
    renamed, zipped, honest = (tmp_path / name for name in ("model.bin", "weights.bin", "ct2.bin"))
    renamed.write_bytes(PICKLE)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    honest.write_bytes(CTRANSLATE2)
    for path in (renamed, zipped):
        with pytest.raises(FetchFailed, match="is a pickle"):
            refuse_pickle(path)
        assert not path.exists()
    refuse_pickle(honest)
    assert honest.exists()


@pytest.mark.parametrize(
    "name",
    ["", "/", ".", "..", "../x", "a/../../x", "/etc/passwd", "a\\b", "a\x00b", "a\nb", ".hidden/x", ".x"],
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(FetchFailed, match="stays inside"):
        target_in(tmp_path, name)


def test_a_link_does_not_lead_elsewhere_either(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path)
    with pytest.raises(FetchFailed, match="leads out"):
        target_in(folder, "a/x")
    assert target_in(folder, "b/c.bin") == folder / "b" / "c.bin"


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (5 * 10**15, "5000 TB")]
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
