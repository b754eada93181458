"""`ekiben engine install --here` with a real pip, a folder of wheels, and a plugin that lacks a library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import CommandLine, assert_fails, make_interpreter
from tests.servers import wheel_of

PLUGIN = Path(__file__).parents[1] / "fixtures" / "ekiben-broken-plugins" / "hungry"
LIBRARY = "ekiben_test_cracker"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for version, code in (("2.0", "'crunch'"), ("2.1", "1 / 0")):
        content = {f"{LIBRARY}/__init__.py": f"SOUND = {code}\n".encode()}
        path = folder / f"{LIBRARY}-{version}-py3-none-any.whl"
        path.write_bytes(wheel_of(LIBRARY, version, content))
    return folder


@pytest.fixture
def run(tmp_path: Path, wheels: Path) -> CommandLine:
    """In an interpreter of its own, with pip configured by its variables alone."""
    python = make_interpreter(tmp_path / "venv", PLUGIN)
    (tmp_path / "constraints.txt").write_text("ekiben-test-cracker==2.0\n")
    env = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONSTRAINT": str(tmp_path / "constraints.txt"),
    }
    return CommandLine(tmp_path / "home", python=python, env=env)


def plain(text: str) -> str:
    """Versions of pip spell names differently."""
    return text.replace("ekiben-test-cracker", LIBRARY)


def test_what_is_missing_is_named_installed_and_then_ready(run: CommandLine) -> None:
    (before,) = [e for e in run.json("engine", "ls") if e["id"] == "hungry"]
    assert (before["status"], before["missing"]) == ("missing", ["ekiben-test-cracker>=2"])
    asked = run("engine", "doctor", "hungry")
    assert asked.returncode == 1 and "mend it with: ekiben engine install hungry" in asked.stdout

    dry = run("engine", "install", "hungry", "--here", "--dry-run")
    assert dry.returncode == 0 and f"Would install {LIBRARY}-2.0" in plain(dry.stdout), dry.stderr
    assert run("engine", "doctor", "hungry").returncode == 1

    done = run("engine", "install", "hungry", "--here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Successfully installed {LIBRARY}-2.0" in plain(done.stdout)  # the constraint was honoured
    assert done.stdout.endswith("hungry is ready\n")
    assert run("engine", "doctor", "hungry").returncode == 0
    assert "has all it needs" in run("engine", "install", "hungry", "--here").stdout


def test_what_pip_cannot_do_is_told_in_its_words(run: CommandLine) -> None:
    broken = CommandLine(run.home, python=run.python, env={"PIP_NO_INDEX": "1"})
    done = broken("engine", "install", "hungry", "--here")
    assert_fails(done, "pip could not install ekiben-test-cracker>=2", "Could not find a version")
    for name in ("nobody", "tomorrow"):
        assert_fails(run("engine", "install", name), f"there is no plugin {name!r}", "hungry")


def test_a_library_that_is_there_and_does_not_work_is_found_out(run: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("")
    done = run("engine", "install", "hungry", "--here")
    assert done.returncode == 1
    assert "still not ready: importing what it requires fails: ZeroDivisionError" in done.stderr
