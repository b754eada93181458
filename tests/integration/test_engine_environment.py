"""An engine in an environment of its own: built offline, served from, replaced, interrupted and removed.

The platform runs in a scratch interpreter with an older version of the engine's library. So that a build
takes a second, what the platform itself requires is found by a variable instead of being installed once more;
the whole of it is built by `test_engine_environment_whole.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

import ekiben
from tests.command_line import CommandLine, assert_fails, make_interpreter
from tests.running import Platform, wait_until
from tests.servers import wheel_of

PLUGIN = Path(__file__).parents[1] / "fixtures" / "ekiben-picky-plugin"
BISCUIT = "ekiben_test_biscuit"


class ScratchPlatform(Platform):
    """`ekiben up` of the scratch interpreter."""

    python = ""

    def command(self, *arguments: str) -> list[str]:
        return [self.python, *super().command(*arguments)[1:]]

    def ask(self) -> str:
        messages: Any = [{"role": "user", "content": "what have you got?"}]
        answer = self.client.chat.completions.create(model="guest", messages=messages)
        return str(answer.choices[0].message.content)


def biscuit(version: str, *requires: str) -> bytes:
    content = {f"{BISCUIT}/__init__.py": f"VERSION = {version!r}\n".encode()}
    return wheel_of(BISCUIT, version, content, requires=requires)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biscuits that want a jam, which is there, and crumbs, which are not."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("2.0", "2.1"):
        wheel = biscuit(version, "ekiben-test-jam", "ekiben-test-crumbs; python_version>'3'")
        (folder / f"{BISCUIT}-{version}-py3-none-any.whl").write_bytes(wheel)
    for name in ("ekiben_test_jam", "ekiben_test_plate"):
        wheel = wheel_of(name, "1.0", {f"{name}.py": b""})
        (folder / f"{name}-1.0-py3-none-any.whl").write_bytes(wheel)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the plugin, and a biscuit that is too old for it."""
    folder = tmp_path_factory.mktemp("scratch")
    old = folder / f"{BISCUIT}-1.0-py3-none-any.whl"
    old.write_bytes(biscuit("1.0"))
    return make_interpreter(folder / "venv", PLUGIN, old)


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With these, the platform and what it requires are on every interpreter's path."""
    site = tmp_path_factory.mktemp("site")
    info = site / f"ekiben-{ekiben.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ekiben\nVersion: {ekiben.__version__}\n")
    points = metadata.distribution("ekiben").read_text("entry_points.txt")
    (info / "entry_points.txt").write_text(str(points))
    path = [str(site), *(entry for entry in sys.path if entry and Path(entry).is_dir())]
    return {"PYTHONPATH": os.pathsep.join(entry for entry in path if "/lib-dynload" not in entry)}


@pytest.fixture
def run(python: str, variables: dict[str, str], ekiben_home: Path) -> CommandLine:
    return CommandLine(ekiben_home, python=python, env=variables)


@pytest.fixture
def install(run: CommandLine, wheels: Path, tmp_path: Path) -> Any:
    def install(version: str = "2.0", *more: str) -> str:
        pins = tmp_path / f"{version}.txt"
        pins.write_text(f"{BISCUIT}=={version}\n")
        done = run(*("engine", "install", "picky", "--wheels", str(wheels), "--constraint", str(pins), *more))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return install


@pytest.fixture
def platform(run: CommandLine, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ScratchPlatform]:
    """With one model of the engine."""
    weights = tmp_path / "weights.txt"
    weights.write_text("-")
    env = {**run.env, "EKIBEN_ZYGOTE": getattr(request, "param", "auto")}
    platform = ScratchPlatform(run.home, None, "--keep-alive", "never", env=env)
    platform.python = run.python
    platform.start()
    variant = {"format": "text", "engine": "picky", "source": {"kind": "local", "path": str(weights)}}
    spec = {"name": "guest", "family": "llm", "abilities": ["chat"], "variants": [variant]}
    added = platform.post("/api/models", {"spec": spec})
    assert added["error"] is None, added
    yield platform
    assert platform.stop() == 0


def described(run: CommandLine) -> dict[str, Any]:
    (found,) = (engine for engine in run.json("engine", "ls") if engine["id"] == "picky")
    return dict(found)


def builds(run: CommandLine) -> list[str]:
    folder = run.home / "engines" / "picky"
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink())


def test_an_engine_gets_an_environment_and_says_what_is_in_it(run: CommandLine, install: Any) -> None:
    asked = run("engine", "doctor", "picky")
    assert asked.returncode == 1
    assert "it lacks ekiben-test-biscuit>=2" in asked.stdout
    assert "mend it with: ekiben engine install picky" in asked.stdout
    dry = install("2.0", "--dry-run")
    assert "without ekiben-test-crumbs" in dry and not builds(run)

    said = install()
    (build,) = builds(run)
    folder = run.home / "engines" / "picky" / build
    assert said.endswith(f"picky is ready in {folder}\n")
    after = described(run)
    assert after["status"] == "ready"
    assert after["environment"]["folder"] == str(folder)
    assert (after["environment"]["device"], after["interpreter"]) == ("cpu", str(folder / "bin" / "python"))

    locked = (folder / "lock.txt").read_text().splitlines()
    assert {"ekiben-test-biscuit==2.0", "ekiben-test-jam==1.0", "ekiben-test-plate==1.0"} <= set(locked)
    shown = run.json("engine", "show", "picky")
    assert [f"{name}=={version}" for name, version in shown["packages"].items()] == locked
    assert "has all it needs in" in run("engine", "install", "picky").stdout


def test_replicas_are_forked_where_their_engine_lives(
    platform: ScratchPlatform, run: CommandLine, install: Any
) -> None:
    with pytest.raises(openai.APIStatusError, match="ekiben engine install picky"):
        platform.ask()
    assert not (run.home / "engines").exists()  # nothing is ever installed by a request
    install()
    assert platform.ask() == "biscuit 2.0"
    (old,) = builds(run)
    pid = platform.replica_pid("guest")
    assert psutil.Process(pid).cmdline()[0] == str(run.home / "engines" / "picky" / old / "bin" / "python")

    platform.kill()
    platform.start()
    assert platform.wait_for("guest", "ready")
    assert platform.replica_pid("guest") == pid  # the next platform took it over
    assert_fails(run("engine", "rm", "picky"), f"picky runs in process {pid}", "stop its models")

    platform.post("/api/models/guest/stop")
    assert platform.ask() == "biscuit 2.0"
    install("2.1", "--rebuild")
    assert len(builds(run)) == 2  # the replica still runs in the old one
    assert platform.ask() == "biscuit 2.0"
    platform.post("/api/models/guest/stop")
    assert platform.ask() == "biscuit 2.1"  # from a new zygote, too

    platform.post("/api/models/guest/stop")
    assert run("engine", "rm", "picky").returncode == 0
    assert not (run.home / "engines" / "picky").exists()
    with pytest.raises(openai.APIStatusError, match="ekiben engine install picky"):
        platform.ask()


@pytest.mark.parametrize("platform", ["off"], indirect=True)
def test_replicas_are_spawned_where_their_engine_lives(
    platform: ScratchPlatform, run: CommandLine, install: Any
) -> None:
    install()
    assert platform.ask() == "biscuit 2.0"
    command = psutil.Process(platform.replica_pid("guest")).cmdline()
    (build,) = builds(run)
    python = run.home / "engines" / "picky" / build / "bin" / "python"
    assert command[:3] == [str(python), "-m", "ekiben.runtime.replica"]


def test_a_bento_that_is_served_alone_says_which_interpreter_serves_it(
    run: CommandLine, install: Any, tmp_path: Path
) -> None:
    install()
    source = {"kind": "local", "path": str(tmp_path)}
    variant = {"format": "text", "engine": "picky", "source": source}
    spec = tmp_path / "guest.yaml"
    spec.write_text(
        json.dumps({"name": "guest", "family": "llm", "abilities": ["chat"], "variants": [variant]})
    )
    script = (
        "from ekiben.contract.model import Family; from ekiben.errors import ConfigError\n"
        "from ekiben.runtime.standalone import choose\n"
        f"try: print(choose(Family.LLM, argument={str(spec)!r}).variant)\n"
        "except ConfigError as error: print(error.message)\n"
    )
    (build,) = builds(run)
    folder = run.home / "engines" / "picky" / build / "bin"
    said = {}
    for python in (run.python, str(folder / "python")):
        done = subprocess.run(
            [python, "-c", script], env=run.environment(), capture_output=True, text=True, check=True
        )
        said[python] = done.stdout.strip()
    assert said[run.python] == (
        "the engine 'picky' lives in an environment of its own: "
        f"serve the Bento with `{folder / 'bentoml'} serve`"
    )
    assert said[str(folder / "python")] == "0"


def fake_uv(folder: Path, does: str) -> dict[str, str]:
    """Variables with which a script of ours is the uv of this machine."""
    folder.mkdir(exist_ok=True)
    script = folder / "uv"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo uv 0.0.1 && exit\n{does}\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def interrupted(run: CommandLine, wheels: Path, tmp_path: Path, with_what: signal.Signals) -> str:
    """The folder of a build that was stopped while uv worked."""
    begun = tmp_path / "begun"
    path = fake_uv(tmp_path / "bin", f"echo $$ > {begun}.part; mv {begun}.part {begun}; exec sleep 600")
    slow = CommandLine(run.home, python=run.python, env={**run.env, **path})
    with slow.started("engine", "install", "picky", "--wheels", str(wheels)) as process:
        uv = wait_until(lambda: begun.read_text() if begun.exists() else None, "uv to begin")
        process.send_signal(with_what)
        assert process.wait(30) != 0
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    wait_until(lambda: True if not psutil.pid_exists(int(uv)) else None, "uv to end")
    (folder,) = builds(run)
    return folder


@pytest.mark.parametrize("with_what", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_is_never_taken_for_whole_and_goes_on(
    run: CommandLine, wheels: Path, tmp_path: Path, with_what: signal.Signals
) -> None:
    begun_in = interrupted(run, wheels, tmp_path, with_what)
    half = Path(run.home / "engines" / "picky" / begun_in)
    (site,) = half.glob("lib/python*/site-packages")
    (site / "ekiben_test_jam-1.0.dist-info").mkdir()
    (site / "ekiben_test_jam-1.0.dist-info" / "METADATA").write_text("Name: ekiben-test-jam\nVersion: 1.0\n")
    assert described(run)["status"] == "missing"
    told = run("engine", "install", "picky", "--wheels", str(wheels))
    assert f"going on with the environment for cpu in {half}" in told.stdout, told
    assert builds(run) == [begun_in]
    assert (site / "ekiben_test_jam.py").exists(), "half a distribution was taken for a whole one"
    assert described(run)["status"] == "ready"


def test_another_plan_does_not_go_on_with_an_interrupted_build(
    run: CommandLine, wheels: Path, install: Any, tmp_path: Path
) -> None:
    begun_in = interrupted(run, wheels, tmp_path, signal.SIGKILL)
    assert "going on" not in install("2.1")
    (built,) = builds(run)
    assert built != begun_in


def test_what_uv_cannot_do_pip_does(run: CommandLine, wheels: Path, tmp_path: Path) -> None:
    path = fake_uv(tmp_path / "bin", "echo 'error: out of order'; exit 2")
    other = CommandLine(run.home, python=run.python, env={**run.env, **path})
    done = other("engine", "install", "picky", "--wheels", str(wheels))
    assert done.returncode == 0, done.stderr
    assert "uv could not install what picky requires on cpu: out of order: trying pip" in done.stdout
    assert described(run)["environment"]["tool"].startswith("pip ")
    assert len(builds(run)) == 1


def test_failures_are_a_sentence_and_leave_nothing(run: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("engine", "install", "picky", "--wheels", str(tmp_path / "empty"))
    assert_fails(done, "could not install what picky requires on cpu", "ekiben-test-biscuit")
    assert builds(run) == []
    assert_fails(run("engine", "install", "picky", "--device", "rocm"), "cpu, cuda, not on 'rocm'", code=2)


def test_a_library_that_does_not_work_is_not_published(
    run: CommandLine, wheels: Path, tmp_path: Path
) -> None:
    rotten = tmp_path / "rotten"
    shutil.copytree(wheels, rotten)
    wheel = wheel_of(BISCUIT, "2.2", {f"{BISCUIT}/__init__.py": b"1 / 0"})
    (rotten / f"{BISCUIT}-2.2-py3-none-any.whl").write_bytes(wheel)
    done = run("engine", "install", "picky", "--wheels", str(rotten))
    assert_fails(done, "still not ready: importing what its replicas import fails: ZeroDivisionError")
    assert builds(run) == []


def test_doctor_knows_what_has_happened_to_an_environment(run: CommandLine, install: Any) -> None:
    install()
    (build,) = builds(run)
    folder = run.home / "engines" / "picky" / build
    note = folder / "environment.json"
    noted = json.loads(note.read_text())
    note.write_text(json.dumps(noted | {"ekiben": "0.0.1"}))
    (finding,) = json.loads(run("engine", "doctor", "picky", "--json").stdout)
    assert "was built by Ekiben 0.0.1" in finding["problem"]
    assert finding["fix"] == "ekiben engine install picky"
    assert "has links to this platform now" in run("engine", "install", "picky").stdout
    assert builds(run) == [build]

    (site,) = folder.glob("lib/python*/site-packages")
    (site / BISCUIT / "__init__.py").write_text("1 / 0")
    (finding,) = json.loads(run("engine", "doctor", "picky", "--json").stdout)
    assert "ZeroDivisionError" in finding["problem"]
    assert finding["fix"] == "ekiben engine install picky --rebuild"

    (folder / "bin" / "python").unlink()
    assert described(run)["reason"].endswith("which is gone: ekiben engine install picky")
    install()
    assert builds(run) != [build] and described(run)["status"] == "ready"
