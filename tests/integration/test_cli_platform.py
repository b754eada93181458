"""The command line with a platform that runs: a model of the sample plugin, no weights to speak of."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command_line import CommandLine, assert_fails, make_interpreter
from tests.running import Platform, wait_until

SAMPLE = Path(__file__).parents[1] / "fixtures" / "ekiben-sample-plugin"
KEY = "a-secret-key"
CLERK = "shouting-clerk"
SILENCE_S = 60


class ScratchPlatform(Platform):
    """`ekiben up` of another interpreter, with a key."""

    python = ""

    def command(self, *arguments: str) -> list[str]:
        return [self.python, *super().command(*arguments)[1:]]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchPlatform]:
    folder = tmp_path_factory.mktemp("scratch")
    platform = ScratchPlatform(folder / "h", None, "--drain-s", "5", env={"EKIBEN_API_KEY": KEY})
    platform.python = make_interpreter(folder / "venv", SAMPLE)
    platform.start()
    yield platform
    assert platform.stop() == 0


@pytest.fixture(scope="module")
def run(platform: ScratchPlatform) -> CommandLine:
    return CommandLine(platform.home, python=platform.python, env={"EKIBEN_API_KEY": KEY})


@pytest.fixture(scope="module", autouse=True)
def clerks(run: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A quick model and a slow one."""
    folder = tmp_path_factory.mktemp("clerks")
    (folder / "ending.txt").write_text("!\n")
    text = (SAMPLE / "shout.yaml").read_text().replace("/path/to/ending.txt", str(folder / "ending.txt"))
    slow = text.replace(CLERK, "slow-clerk").replace("pause_s: 0.01", "pause_s: 0.5")
    for name, content in (("quick.yaml", text), ("slow.yaml", slow)):
        (folder / name).write_text(content)
        assert run("model", "add", str(folder / name)).returncode == 0


def state(run: CommandLine, name: str = CLERK) -> str:
    return str(run.json("model", "show", name)["state"])


def test_without_the_key_it_says_where_the_key_goes(platform: ScratchPlatform) -> None:
    for env in ({}, {"EKIBEN_API_KEY": "wrong"}):
        run = CommandLine(platform.home, python=platform.python, env=env)
        assert_fails(run("ps"), "EKIBEN_API_KEY")


def test_the_key_is_in_no_listing(run: CommandLine) -> None:
    assert KEY not in run("config", "show", "--json").stdout
    assert f"running on {run_url(run)}" in run("doctor").stdout


def run_url(run: CommandLine) -> str:
    return str(json.loads((run.home / "run" / "platform.json").read_text())["url"])


def test_a_second_platform_on_this_home_refuses_to_start(run: CommandLine) -> None:
    assert_fails(run("up", "--port", "0"), str(run.home), code=2)


def test_a_taken_port_is_told(run: CommandLine, tmp_path: Path) -> None:
    port = run_url(run).rpartition(":")[2]
    other = CommandLine(tmp_path / "other")
    assert_fails(other("up", "--port", port), port, "--port", code=2)


def test_load_ps_and_stop_follow_a_model_through_its_life(run: CommandLine) -> None:
    assert run("stop", CLERK).stdout == f"{CLERK} is cold\n"
    assert [m["name"] for m in run.json("ps") if m["name"] == CLERK] == []
    done = run("load", CLERK)
    assert done.stdout.startswith(f"{CLERK} is ready, "), done.stderr
    (row,) = [m for m in run.json("ps") if m["name"] == CLERK]
    assert (row["state"], row["in_flight"], row["waiting"]) == ("ready", 0, 0)
    assert row["memory_bytes"] > 10**6 and row["unloads_in_s"] > 0
    head, *lines = run("ps").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(CLERK)]
    assert head.startswith("MODEL") and head.endswith("UNLOADS IN")
    assert line.split()[1:3] == ["ready", "-"] and "shout" in line.split()
    assert run("stop", CLERK).stdout == f"{CLERK} is cold\n"
    assert state(run) == "cold"
    assert run("logs", CLERK).returncode == 0


def test_run_answers_a_prompt_and_tells_the_wait_on_standard_error(run: CommandLine) -> None:
    run("stop", CLERK)
    done = run("run", CLERK, "mind", "the gap")
    assert done.stdout == "MIND THE GAP!\n", done.stderr
    assert set(done.stderr.splitlines()) <= {
        f"{CLERK}: {s}" for s in ("waiting to start", "starting", "loading")
    }
    warm = run("run", CLERK, "--system", "be loud", "--max-tokens", "5", "again")
    assert (warm.stdout, warm.stderr) == ("AGAIN!\n", "")


def test_run_takes_its_prompt_from_a_pipe(run: CommandLine) -> None:
    assert run("run", CLERK, stdin="from a pipe").stdout == "FROM A PIPE!\n"
    assert run("run", CLERK, "-", stdin="dash").stdout == "DASH!\n"
    done = run("run", CLERK, stdin="")
    assert done.returncode == 2 and "needs a PROMPT" in done.stderr


def test_run_gives_the_whole_answer_as_json(run: CommandLine) -> None:
    answer = run.json("run", CLERK, "hello")
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == "HELLO!"


def test_run_streams_word_by_word(run: CommandLine) -> None:
    run("load", "slow-clerk")
    with run.started("run", "slow-clerk", "one two three", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100).strip() == b"ONE"
        assert process.poll() is None
        assert process.stdout.read() == b" TWO THREE!\n"
        assert process.wait(30) == 0


def test_interrupting_run_ends_the_work(run: CommandLine, platform: ScratchPlatform) -> None:
    run("load", "slow-clerk")
    with run.started("run", "slow-clerk", "word " * 100, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stderr is not None
        os.read(process.stdout.fileno(), 100)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert b"Traceback" not in process.stderr.read()
    wait_until(lambda: in_flight(run) == 0 or None, "the work to end", timeout_s=10)


def in_flight(run: CommandLine) -> int:
    return int(run.json("model", "show", "slow-clerk")["in_flight"])


def test_errors_of_the_platform_keep_their_words(run: CommandLine) -> None:
    for command in (["load"], ["stop"], ["run"], ["model", "show"], ["model", "rm"], ["pull"], ["logs"]):
        assert_fails(run(*command, "nobody"), "'nobody' does not exist")
    assert_fails(run("model", "rm", "whisper-base"), "built in")


def test_a_model_comes_and_goes_while_the_platform_runs(run: CommandLine, tmp_path: Path) -> None:
    spec = tmp_path / "org.yaml"
    text = run("model", "show", CLERK, "--yaml").stdout.replace(CLERK, "org/clerk:7b")
    spec.write_text(text)
    assert run("model", "add", str(spec)).returncode == 0
    assert_fails(run("model", "add", str(spec)), "added already")
    assert run("model", "add", str(spec), "--replace").returncode == 0
    assert run("run", "org/clerk:7b", "hello").stdout == "HELLO!\n"
    assert run("pull", "org/clerk:7b").returncode == 0
    assert "org/clerk:7b" in run("model", "ls").stdout
    assert run("model", "rm", "org/clerk:7b").stdout == "removed org/clerk:7b\n"
    assert_fails(run("run", "org/clerk:7b", "hello"), "does not exist")


# On a terminal


class Terminal:
    """The other end of a command's terminal."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self.descriptor = descriptor
        self.process = process
        self.seen = ""

    def send(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def expect(self, text: str) -> str:
        """Read until the text has come; what came up to its end, from where the last one ended."""
        while text not in self.seen:
            readable, _, _ = select.select([self.descriptor], [], [], SILENCE_S)
            assert readable, f"it fell silent before {text!r}: {self.seen!r}"
            try:
                chunk = os.read(self.descriptor, 4096)
            except OSError:
                chunk = b""
            assert chunk, f"it ended before {text!r}: {self.seen!r}"
            self.seen += chunk.decode()
        head, _, self.seen = self.seen.partition(text)
        return head + text


@contextmanager
def terminal(run: CommandLine, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    terminals = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    try:
        with run.started(
            *arguments, start_new_session=True, preexec_fn=_own_terminal, **terminals
        ) as process:
            os.close(theirs)
            yield Terminal(ours, process)
    finally:
        os.close(ours)


def _own_terminal() -> None:
    """Make it the controlling terminal, so that Ctrl-C is a signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_conversation_in_the_terminal(run: CommandLine) -> None:
    run("stop", CLERK)
    with terminal(run, "run", CLERK) as screen:
        screen.expect("/exit or Ctrl-D ends it")
        screen.expect(">>> ")
        screen.send("hello there\n")
        screen.expect("HELLO THERE!")
        screen.expect(">>> ")
        screen.send("/what\n")
        screen.expect("/clear forgets")
        screen.send("/clear\n")
        screen.expect(">>> ")
        screen.send("and again\n")
        screen.expect("AND AGAIN!")
        screen.expect(">>> ")
        screen.send("\x04")
        assert screen.process.wait(30) == 0


def test_interrupting_an_answer_goes_on_with_the_conversation(run: CommandLine) -> None:
    run("load", "slow-clerk")
    with terminal(run, "run", "slow-clerk") as screen:
        screen.expect(">>> ")
        screen.send("one two three four five six seven eight nine ten\n")
        screen.expect("ONE TWO")
        screen.send("\x03")
        screen.expect(">>> ")
        screen.send("hi\n")
        screen.expect("HI!")
        screen.expect(">>> ")
        screen.send("/exit\n")
        assert screen.process.wait(30) == 0


def test_tables_on_a_terminal_fit_it(run: CommandLine) -> None:
    with terminal(run, "model", "ls") as screen:
        text = screen.expect("slow-clerk")
        assert "NAME" in text
        assert "\x1b[1m" in text
        assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 120


def test_aliases_of_a_running_platform(run: CommandLine) -> None:
    assert run("alias", "set", "gpt-4o-mini", CLERK).stdout == f"gpt-4o-mini stands for {CLERK}\n"
    assert [alias["name"] for alias in run.json("alias", "ls")] == ["gpt-4o-mini"]
    assert run("alias", "rm", "gpt-4o-mini").returncode == 0
    assert run.json("alias", "ls") == []


def test_a_running_request_is_listed_and_cancelled(run: CommandLine) -> None:
    with run.started("run", "slow-clerk", "one two three four five six seven eight") as asking:
        (request,) = wait_until(lambda: run.json("request", "ls") or None, "a request")
        assert (request["model"], request["route"]) == ("slow-clerk", "/v1/chat/completions")
        assert run("request", "cancel", request["id"]).stdout == f"cancelled {request['id']}\n"
        assert asking.wait(timeout=SILENCE_S) == 1
        assert asking.stderr is not None
        assert b"was cancelled by its id" in asking.stderr.read()
    assert_fails(run("request", "cancel", "nobody"), "no request 'nobody'")
