"""Environments of engines as their files describe them: which are whole, which are of no use any more."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ekiben import __version__
from ekiben.contract import testing
from ekiben.contract.manifest import Manifest
from ekiben.plugins.devices import usable_kinds
from ekiben.plugins.discovery import Plugin, Plugins
from ekiben.plugins.environments import (
    PLATFORM_INTERPRETER,
    Environments,
    Interpreter,
    Standing,
    base_requirements,
    name_of,
)
from ekiben.plugins.gpus import hardware

TABLES = {
    "cpu": {"requires": ["ekiben-test-slow==2"]},
    "cuda": {"requires": ["ekiben-test-fast"]},
}


ENGINE = {"families": ["llm"], "abilities": ["chat"], "formats": ["x"], "devices": ["cpu", "cuda"]}


def manifest(requires: list[str], *, engine: Mapping[str, Any] = ENGINE, **environment: Any) -> Manifest:
    return Manifest.model_validate(
        {
            "id": "toy",
            "kind": "engine",
            "api": 1,
            "name": "Toy",
            "summary": "for tests",
            "object": "ekiben_toy.engine:Toy",
            "requires": requires,
            "engine": engine,
            "environment": environment,
        }
    )


class Home:
    """A home with one environment, written by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / "engines" / "toy"
        self.built = self.folder / "cpu-1"
        self.site = self.built / "lib" / "python3.11" / "site-packages"
        self.site.mkdir(parents=True)
        (self.built / "bin").mkdir()
        self.python = self.built / "bin" / "python"
        self.python.symlink_to(sys.executable)
        (self.built / "platform").mkdir()
        (self.built / "platform" / "ekiben").symlink_to(path)
        self.install({"ekiben-test-slow": "2"})
        self.note()
        (self.folder / "current").symlink_to(self.built.name)

    def install(self, packages: dict[str, str]) -> None:
        """Besides what the platform requires."""
        base = {name_of(text): "9999" for text in base_requirements()} | {
            "bentoml": "1.4.40",
            "pydantic": "2.12",
        }
        lines = (f"{name}=={version}\n" for name, version in (base | packages).items())
        (self.built / "lock.txt").write_text("".join(lines))

    def note(self, **changes: str) -> None:
        note = {
            "engine": "toy",
            "device": "cpu",
            "ekiben": __version__,
            "python": "3.11.4",
            "base": str(self.python.resolve()),
            "tool": "pip 26.0",
            "requires": ["ekiben-test-slow==2"],
            "links": "platform",
            "made_at": "2026-01-01T00:00:00Z",
        }
        (self.built / "environment.json").write_text(json.dumps(note | changes))

    def standing(self, wanted: Manifest | None = None) -> Standing:
        environments = Environments(self.path, hardware=lambda: ("cuda", "cpu"))
        return environments.standing(wanted or manifest([], **TABLES))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_whole_environment_is_where_the_engine_lives(home: Home) -> None:
    standing = home.standing()
    assert standing.ready and standing.problem is None
    assert (standing.folder, standing.interpreter.python) == (home.built, home.python)
    assert standing.kinds == {"cpu"}
    assert standing.sites == (home.site,)
    assert standing.packages["ekiben-test-slow"] == "2"


def test_without_a_home_there_is_only_this_interpreter(home: Home) -> None:
    standing = Environments().standing(manifest(["pytest"]))
    assert standing.ready and standing.interpreter == PLATFORM_INTERPRETER
    assert Environments().standing(manifest(["pytest>=9999"])).problem == "missing: pytest>=9999"


def test_what_nobody_built_counts_for_nothing(home: Home) -> None:
    (home.folder / "current").unlink()
    standing = home.standing()
    assert not standing.ready and standing.folder is None
    assert standing.missing == ("ekiben-test-fast",)  # of the best device that the machine has


def test_this_interpreter_serves_where_the_environment_cannot(home: Home) -> None:
    anywhere = manifest(["pytest"])
    assert home.standing(anywhere).interpreter == PLATFORM_INTERPRETER
    home.install({"pytest": "8.3"})
    assert home.standing(anywhere).folder == home.built


@pytest.mark.parametrize(
    ("packages", "missing"),
    [
        ({"ekiben-test-slow": "3"}, ("ekiben-test-fast",)),
        ({"ekiben-test-slow": "2", "bentoml": "1.3"}, ("bentoml<1.5,>=1.4.39",)),
    ],
)
def test_a_requirement_that_came_later_is_missing(
    home: Home, packages: dict[str, str], missing: tuple[str, ...]
) -> None:
    home.install(packages)
    standing = home.standing()
    assert not standing.ready and standing.missing == missing


def test_another_python_makes_it_useless(home: Home, tmp_path: Path) -> None:
    home.note(base="/usr/bin/python3.9")
    standing = home.standing()
    assert standing.problem == (
        "its environment was built for Python 3.11.4 at /usr/bin/python3.9, which is gone"
    )
    assert not standing.outdated
    home.python.unlink()
    home.python.symlink_to(tmp_path / "nowhere")
    home.note(base=str(tmp_path / "nowhere"))
    assert "which is gone" in (home.standing().problem or "")


def test_another_platform_makes_it_outdated(home: Home, tmp_path: Path) -> None:
    home.note(ekiben="0.0.1")
    standing = home.standing()
    assert standing.outdated and not standing.ready
    assert standing.problem == f"its environment was built by Ekiben 0.0.1, and this is {__version__}"
    home.note()
    (home.built / "platform" / "ekiben").unlink()
    (home.built / "platform" / "ekiben").symlink_to(tmp_path / "moved")
    standing = home.standing()
    assert standing.outdated
    assert standing.problem == f"its environment has a link to {tmp_path / 'moved'}, which is gone"


@pytest.mark.parametrize("text", ["", "{}", '{"engine": '])
def test_a_note_that_cannot_be_read_is_a_fault(home: Home, text: str) -> None:
    (home.built / "environment.json").write_text(text)
    standing = home.standing()
    assert not standing.ready
    assert "cannot be read" in (standing.problem or "")


def test_the_mark_changes_with_what_is_installed(home: Home) -> None:
    before = home.standing().interpreter
    assert home.standing().interpreter == before
    os.utime(home.built / "environment.json", ns=(1, 1))
    assert home.standing().interpreter != before


def test_programs_of_the_environment_are_found_first(home: Home) -> None:
    own = home.standing().interpreter
    assert own.variables({"PATH": "/bin", "A": "b"}) == {"PATH": f"{home.python.parent}:/bin", "A": "b"}
    assert own.variables({}) == {"PATH": str(home.python.parent)}
    assert Interpreter(Path("/bin/python")).variables({"PATH": "/bin"}) == {"PATH": "/bin"}


def test_a_table_speaks_for_its_kind_of_device(home: Home) -> None:
    home.install({"ekiben-test-slow": "2", "ekiben-test-fast": "1"})
    assert home.standing().kinds == {"cpu", "cuda"}
    only = manifest(["ekiben-test-slow"], cuda={"requires": ["ekiben-test-absent"]})
    assert home.standing(only).kinds == {"cpu"}
    assert only.requirements("cuda") == ("ekiben-test-slow", "ekiben-test-absent")
    assert only.requirements("cpu") == only.requirements(None) == ("ekiben-test-slow",)


def test_devices_are_those_of_the_environment(home: Home) -> None:
    environments = Environments(home.path, hardware=lambda: ("cuda", "cpu"))

    def kinds(wanted: Manifest) -> frozenset[str]:
        plugin = Plugin(wanted, "toy", "1", home.path)
        return usable_kinds(Plugins({"toy": plugin}, environments=environments), "toy")

    assert kinds(manifest([], **TABLES)) == {"cpu"}
    (home.site / "fast.so").touch()
    for file, expected in (("fast.so", {"cpu", "cuda"}), ("faster.so", {"cpu"})):
        section = {**ENGINE, "builds": {"cuda": {"file": file}}}
        assert kinds(manifest(["ekiben-test-slow"], engine=section)) == expected


def test_the_best_device_of_the_machine_is_installed_for() -> None:
    wanted = manifest([])
    for machine, best in ((("cuda", "cpu"), "cuda"), (("rocm", "cpu"), "cpu"), (("cpu",), "cpu")):
        assert Environments(hardware=lambda machine=machine: machine).best_kind(wanted) == best  # type: ignore[misc]


def test_a_machine_always_has_a_cpu(tmp_path: Path) -> None:
    assert hardware()[-1] == "cpu"
    card = tmp_path / "sys/class/drm/card0/device"
    card.mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kfd").touch()
    (card / "mem_info_vram_total").write_text("1000")
    (card / "mem_info_vram_used").write_text("10")
    assert hardware(tmp_path)[-2:] == ("rocm", "cpu")


def test_a_table_must_be_for_a_device_that_the_engine_knows() -> None:
    with pytest.raises(ValidationError, match=r"\[environment\.rocm\] is for a device"):
        manifest([], rocm={})


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"requires": ["not a requirement!"]}, r"\[environment\.cpu\] requires"),
        ({"constraints": ["=1"]}, r"\[environment\.cpu\] constraints"),
        ({"without": ["torch>=2"]}, r"without: 'torch>=2' must be the name"),
    ],
)
def test_the_conformance_suite_reads_the_tables(table: dict[str, list[str]], rule: str) -> None:
    with pytest.raises(testing.NotConforming, match=rule):
        testing.check_manifest(manifest([], cpu=table))
    testing.check_manifest(manifest([], **TABLES))
