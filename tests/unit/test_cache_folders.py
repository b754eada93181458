"""Where engines keep what outlives a replica."""

from __future__ import annotations

from pathlib import Path

from ekiben.fleet.processes.berths import cache_path


def test_every_model_has_a_folder_of_its_own(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a:b", "../../etc/passwd"]
    folders = [cache_path(tmp_path, name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder is not None and folder.parent == tmp_path for folder in folders)
    assert cache_path(tmp_path, "a/b") == folders[0]


def test_without_a_place_there_is_none() -> None:
    assert cache_path(None, "m") is None
