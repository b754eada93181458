"""The command line without a platform: on the home alone, with every kind of wrong input."""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ekiben import __version__
from ekiben.cli.main import ekiben, main
from tests.command_line import CommandLine, assert_fails

SPEC = """\
name: {name}
family: llm
abilities: [chat]
variants:
  - format: gguf
    engine: llama_cpp
    source: {{kind: local, path: {path}}}
"""


@pytest.fixture
def run(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SPEC.format(name="mine", path=tmp_path / "mine.gguf"))
    return path


Inside = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inside(run: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The same in this process, for what cannot leave anything behind in it: much quicker."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        for name, value in run.environment().items():
            monkeypatch.setenv(name, value)
        code = main(arguments)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return call


def names(run: CommandLine) -> list[str]:
    return [model["name"] for model in run.json("model", "ls")]


# The program itself


def test_help_is_quick_and_names_every_command(run: CommandLine) -> None:
    best_s = float("inf")
    for _ in range(3):
        start = time.monotonic()
        done = run("--help")
        best_s = min(best_s, time.monotonic() - start)
    assert done.returncode == 0
    for name in ekiben.commands:
        assert f"\n  {name} " in done.stdout
    bare = min(_bare_start_s() for _ in range(3))
    assert best_s < bare + 0.5


def _bare_start_s() -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - start


@pytest.mark.parametrize("name", sorted(ekiben.commands))
def test_every_command_explains_itself_in_the_words_of_the_list(inside: Inside, name: str) -> None:
    done = inside(name, "--help")
    assert done.returncode == 0, done.stderr
    listed = ekiben.commands[name].short_help
    assert listed is not None
    assert listed.rstrip(".").split()[0] in done.stdout


def test_version(run: CommandLine) -> None:
    assert run("--version").stdout == f"ekiben {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nope"], ["model"], ["model", "show"], ["logs", "m", "-n", "x"], ["up", "--nope"]]
)
def test_wrong_usage_is_2_and_shows_the_usage(inside: Inside, arguments: list[str]) -> None:
    done = inside(*arguments)
    assert done.returncode == 2
    assert "Usage: ekiben" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "home_flag", [["--home", "{home}", "config", "show"], ["config", "show", "--home", "{home}"]]
)
def test_the_home_may_be_said_before_or_after_the_command(tmp_path: Path, home_flag: list[str]) -> None:
    run = CommandLine(tmp_path / "other")
    flags = [part.format(home=tmp_path / "said") for part in home_flag]
    assert run.json(*flags)["home"] == {"value": str(tmp_path / "said"), "from": "flag"}


def test_a_closed_pipe_is_no_error_to_talk_about(run: CommandLine) -> None:
    with run.started("model", "ls", "--json", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_what_should_not_happen_is_a_sentence_and_a_traceback_only_on_demand(run: CommandLine) -> None:
    broken = CommandLine(run.home, env={"PYTHONPATH": str(_folder_with_a_broken_psutil(run.home.parent))})
    assert_fails(broken("doctor"), "this should not happen: RuntimeError: out of order", "--debug")
    for done in (
        broken("doctor", "--debug"),
        CommandLine(run.home, env={**broken.env, "EKIBEN_LOG_LEVEL": "debug"})("doctor"),
    ):
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def _folder_with_a_broken_psutil(folder: Path) -> Path:
    (folder / "broken").mkdir()
    (folder / "broken" / "psutil.py").write_text("raise RuntimeError('out of order')\n")
    return folder / "broken"


# Models


def test_looking_makes_no_home(run: CommandLine) -> None:
    assert "smollm2-135m-instruct" in names(run)
    assert run("model", "show", "whisper-base").returncode == 0
    assert run.json("engine", "ls")
    assert run("doctor").returncode in (0, 1)
    assert not run.home.exists()


def test_an_added_model_stays_until_it_is_removed(run: CommandLine, spec: Path) -> None:
    assert "mine" in run("model", "add", str(spec)).stdout
    shown = run.json("model", "show", "mine")
    assert (shown["origin"], shown["state"], shown["engine"]) == ("user", "cold", "llama_cpp")
    assert_fails(run("model", "add", str(spec)), "'mine'", "added already")
    spec.write_text(spec.read_text() + "description: another\n")
    assert run("model", "add", str(spec), "--replace").returncode == 0
    assert run.json("model", "show", "mine")["spec"]["description"] == "another"
    assert run("model", "rm", "mine").stdout == "removed mine\n"
    assert_fails(run("model", "rm", "mine"), "'mine' does not exist")


def test_a_shown_spec_can_be_added_under_another_name(run: CommandLine, tmp_path: Path) -> None:
    text = run("model", "show", "whisper-base", "--yaml").stdout
    copy = tmp_path / "copy.yaml"
    copy.write_text(text.replace("name: whisper-base", "name: my-whisper", 1))
    assert run("model", "add", str(copy)).returncode == 0
    mine, theirs = (run.json("model", "show", name)["spec"] for name in ("my-whisper", "whisper-base"))
    assert mine["variants"] == theirs["variants"]


def test_a_file_may_hold_several_specs(run: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "".join(
            "- " + SPEC.format(name=name, path="/x.gguf").replace("\n", "\n  ").rstrip() + "\n"
            for name in ("one", "two")
        )
    )
    assert [model["name"] for model in run.json("model", "add", str(path))] == ["one", "two"]


def test_each_mistake_in_a_spec_is_told_with_its_line(run: CommandLine, inside: Inside, spec: Path) -> None:
    spec.write_text(SPEC.format(name="mine", path="/x").replace("llama_cpp", "lama_cpp") + "colour: red\n")
    done = inside("model", "add", str(spec))
    assert_fails(done, f"{spec}:8:1: colour", code=2)
    spec.write_text(SPEC.format(name="mine", path="/x").replace("llama_cpp", "lama_cpp"))
    assert_fails(inside("model", "add", str(spec)), f"{spec}:6:13:", "'lama_cpp'", "llama_cpp", code=2)
    spec.write_text("name: [\n")
    assert_fails(inside("model", "add", str(spec)), f"{spec}:2:1:", code=2)
    spec.write_bytes(b"\xff\xfe\x00")
    assert_fails(inside("model", "add", str(spec)), "UTF-8", code=2)
    assert "mine" not in names(run)


def test_broken_weights_are_told_and_not_added(run: CommandLine, inside: Inside, tmp_path: Path) -> None:
    before = names(run)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    assert_fails(inside("model", "add", str(broken)), "broken.gguf", code=2)
    (tmp_path / "empty").mkdir()
    assert_fails(inside("model", "add", str(tmp_path / "empty")), "empty", code=2)
    assert inside("model", "add", str(tmp_path / "nothing.gguf")).returncode == 2
    assert names(run) == before


def test_built_in_models_cannot_be_removed(inside: Inside) -> None:
    assert_fails(inside("model", "rm", "whisper-base"), "built in")


def test_an_unknown_model_gets_a_hint(inside: Inside) -> None:
    for command in (["model", "show"], ["pull"], ["logs"], ["model", "rm"]):
        assert_fails(inside(*command, "whisper-bas"), "'whisper-bas'", "did you mean 'whisper-base'")


def test_nothing_is_changed_while_somebody_else_holds_the_home(run: CommandLine, spec: Path) -> None:
    run.home.mkdir()
    with (run.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_fails(run("model", "add", str(spec)), str(run.home), "does not answer")
        assert_fails(run("ps"), "does not answer")
        assert "mine" not in names(run)
    assert run("model", "add", str(spec)).returncode == 0


def test_a_platform_that_died_does_not_get_in_the_way(run: CommandLine, spec: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    (run.home / "run").mkdir(parents=True)
    announced = run.home / "run" / "platform.json"
    for content in (json.dumps({"pid": done.pid, "url": "http://127.0.0.1:9"}), "half a fi", "[]", "{}"):
        announced.write_text(content)
        assert_fails(run("ps"), "no platform runs")
    assert run("model", "add", str(spec)).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["ps"], ["load", "whisper-base"], ["stop", "whisper-base"], ["run", "whisper-base", "x.wav"]],
)
def test_what_needs_a_platform_says_how_to_start_one(inside: Inside, arguments: list[str]) -> None:
    assert_fails(inside(*arguments), "no platform runs on", "ekiben up")


def test_a_damaged_database_is_told_and_kept(run: CommandLine, spec: Path) -> None:
    run("model", "add", str(spec))
    for path in run.home.glob("ekiben.db*"):
        path.write_bytes(b"this is not a database" * 100)
    assert_fails(run("model", "ls"), "ekiben.db", code=2)
    assert "fail catalog" in run("doctor").stdout
    assert (run.home / "ekiben.db").read_bytes().startswith(b"this is not")


def test_a_home_that_cannot_be_is_told(tmp_path: Path, spec: Path) -> None:
    (tmp_path / "file").write_text("")
    run = CommandLine(tmp_path / "file" / "home")
    assert_fails(run("model", "add", str(spec)), "home", code=2)


# Weights


def test_pull_tells_where_the_weights_are_and_rm_leaves_them(run: CommandLine, tmp_path: Path) -> None:
    weights = tmp_path / "mine.gguf"
    weights.write_bytes(b"x" * 1234)
    spec = tmp_path / "mine.yaml"
    spec.write_text(SPEC.format(name="mine", path=weights))
    run("model", "add", str(spec))
    assert run("pull", "mine").stdout == f"mine: 1.2 kB in {weights}\n"
    assert run.json("model", "show", "mine")["weights"] == str(weights)
    assert run("model", "rm", "mine", "--weights").returncode == 0
    assert weights.exists()
    weights.unlink()
    run("model", "add", str(spec))
    assert_fails(run("pull", "mine"), str(weights))


def test_rm_keeps_weights_that_another_model_needs(run: CommandLine, tmp_path: Path) -> None:
    weights = tmp_path / "shared.gguf"
    weights.write_bytes(b"x" * 1234)
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(SPEC.format(name=name, path=weights))
        run("model", "add", str(tmp_path / f"{name}.yaml"))
    run("pull", "first")
    assert run("model", "rm", "first", "--weights").stdout == "removed first\n"
    assert run.json("model", "show", "second")["weights"] == str(weights)
    done = run("model", "rm", "second", "--weights").stdout
    assert done == "removed second\nremoved 1.2 kB of gguf weights\n"
    assert weights.exists()


# Settings


def test_config_tells_each_value_and_its_layer_and_no_secret(run: CommandLine) -> None:
    run.home.mkdir()
    (run.home / "ekiben.yaml").write_text("port: 4000\nthreads: 1\n")
    run = CommandLine(run.home, env={"EKIBEN_API_KEY": "very-secret", "EKIBEN_THREADS": "2"})
    settings = run.json("config", "show")
    assert settings["port"] == {"value": 4000, "from": str(run.home / "ekiben.yaml")}
    assert settings["threads"] == {"value": 2, "from": "$EKIBEN_THREADS"}
    assert settings["host"]["from"] == "default"
    assert settings["keep_alive"]["value"] == "auto"
    for done in (run("config", "show"), run("config", "show", "--json")):
        assert "very-secret" not in done.stdout
        assert "***" in done.stdout


@pytest.mark.parametrize(
    ("env", "part"), [({"EKIBEN_PORT": "x"}, "EKIBEN_PORT"), ({"EKIBEN_KEEP_ALIVE": "soon"}, "KEEP_ALIVE")]
)
def test_a_wrong_setting_is_told_with_its_origin(run: CommandLine, env: dict[str, str], part: str) -> None:
    assert_fails(CommandLine(run.home, env=env)("model", "ls"), part, code=2)


@pytest.mark.parametrize(
    ("flags", "part"),
    [(["--port", "70000"], "port"), (["--keep-alive", "soon"], "keep_alive"), (["--host", "0.0.0.0"], "key")],
)
def test_a_wrong_flag_of_up_is_told(run: CommandLine, flags: list[str], part: str) -> None:
    assert_fails(run("up", *flags), part, code=2)


def test_doctor_says_what_is_wrong_and_how_to_mend_it(run: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = CommandLine(run.home, env={"EKIBEN_PORT": str(taken.getsockname()[1])})
        done = run("doctor", "--json")
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["port"]["level"] == "fail" and "--port" in checks["port"]["fix"]
    assert checks["python"]["level"] == checks["home"]["level"] == "ok"
    broken = CommandLine(run.home, env={"EKIBEN_PORT": "x"})("doctor")
    assert broken.returncode == 1 and "fail settings" in broken.stdout


# Logs


def test_logs_are_there_after_the_platform_is_gone(run: CommandLine) -> None:
    assert_fails(run("logs", "whisper-base"), "never started")
    log = run.home / "logs" / "whisper-base.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(10)) + b"\xff\n")
    assert run("logs", "whisper-base", "-n", "3").stdout == "line 8\nline 9\n\ufffd\n"
    assert run("logs", "whisper-base", "-n", "0").stdout == ""


def test_followed_logs_go_on_when_a_new_log_begins(run: CommandLine) -> None:
    log = run.home / "logs" / "whisper-base.log"
    log.parent.mkdir(parents=True)
    log.write_text("before\nfirst\n")
    with run.started("logs", "whisper-base", "-f", "-n", "1", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert process.stdout.readline() == b"second\n"
        log.rename(log.with_suffix(".log.1"))
        log.write_text("third\n")
        assert process.stdout.readline() == b"third\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().strip() == b""


def test_aliases_are_kept_without_a_platform(run: CommandLine) -> None:
    assert run("alias", "ls").stdout.strip() == "no aliases"
    done = run("alias", "set", "gpt-4o-mini", "smollm2-135m-instruct")
    assert (done.returncode, done.stdout) == (0, "gpt-4o-mini stands for smollm2-135m-instruct\n")
    (alias,) = run.json("alias", "ls")
    assert (alias["name"], alias["model"]) == ("gpt-4o-mini", "smollm2-135m-instruct")
    assert run.json("model", "show", "gpt-4o-mini")["name"] == "smollm2-135m-instruct"
    assert_fails(run("alias", "set", "whisper-base", "smollm2-135m-instruct"), "is taken")
    assert run("alias", "rm", "gpt-4o-mini").stdout == "removed gpt-4o-mini\n"
    assert_fails(run("alias", "rm", "gpt-4o-mini"), "no alias 'gpt-4o-mini'")
