"""Disks, descriptors, addresses and databases that fail: rows D7 and D8."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import openai
import pytest
from sqlalchemy import create_engine

from ekiben.store.migrations import upgrade
from ekiben.store.schema import HEAD, REVISIONS
from tests.command_line import CommandLine, assert_fails
from tests.mayflies import Mayfly, mayfly_spec
from tests.running import Platform, wait_until

MAX_FILES = 64


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB, whose path is short enough for sockets."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root")
    with tempfile.TemporaryDirectory(prefix="ek-") as name:
        folder = Path(name)
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine does not let root mount a tmpfs")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def start(tmp_path: Path, with_mayflies: dict[str, str]) -> Iterator[Callable[..., Platform]]:
    """Starts platforms that have the mayfly engine, and stops them."""
    started: list[Platform] = []

    def make(home: Path | None = None, *, kind: type[Platform] = Platform, **env: str) -> Platform:
        flags = ("--keep-alive", "never", "--drain-s", "5")
        started.append(kind(home or tmp_path / "h", None, *flags, env=with_mayflies | env))
        return started[-1].start()

    yield make
    for platform in started:
        if platform.process is not None and platform.process.poll() is None:
            assert platform.stop() == 0


def fill(disk: Path) -> Path:
    """Leave no byte; the file that takes them all."""
    path = disk / "everything"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def refused(platform: Platform, tmp_path: Path, name: str = "late") -> str:
    """Why a model cannot be added, which must be said as it should; and it is not there then."""
    (tmp_path / "late.larva").write_text("")
    spec = mayfly_spec(name, tmp_path / "late.larva")
    error = platform.post("/api/models", {"spec": spec})["error"]
    assert error["code"] == "database_failed", error
    assert name not in {model["name"] for model in platform.get("/api/models")["models"]}
    return str(error["message"])


# D7


def test_d7_full_disk_stops_no_inference_and_corrupts_nothing(
    small_disk: Path, tmp_path: Path, start: Callable[..., Platform]
) -> None:
    platform = start(small_disk / "h")
    hot, cold = Mayfly(platform, "hot", tmp_path), Mayfly(platform, "cold", tmp_path)
    hot.ask()
    everything = fill(small_disk)
    for _ in range(5):  # with a log that cannot grow
        assert hot.ask("hello !log") == "hello"
        with pytest.raises(openai.BadRequestError):
            hot.ask(temperature="warm")
    with hot.stream("one two") as body:
        assert body.read().endswith(b"data: [DONE]\n\n")
    assert "free some space" in refused(platform, tmp_path)
    with pytest.raises(openai.APIStatusError) as caught:
        cold.ask()
    assert caught.value.code in ("model_load_failed", "weights_unavailable"), caught.value
    assert "No space left" in caught.value.message or "is full" in caught.value.message
    everything.unlink()
    assert wait_until(lambda: answer_or_none(cold), "the pause to end", timeout_s=20) == "hello"
    Mayfly(platform, "late", tmp_path)
    assert platform.stop() == 0
    check_database(small_disk / "h")


def answer_or_none(fly: Mayfly) -> str | None:
    try:
        return fly.ask()
    except openai.APIStatusError:
        return None


def check_database(home: Path) -> None:
    with closing(sqlite3.connect(home / "ekiben.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_d7_full_disk_for_uploads_is_told(
    small_disk: Path, tmp_path: Path, start: Callable[..., Platform]
) -> None:
    platform = start(TMPDIR=str(small_disk))
    fly = Mayfly(platform, "fly", tmp_path)
    fly.ask()
    body = b'{"model": "fly", "messages": [{"role": "user", "content": "%b"}]}' % (b"x" * 2**24)
    url = f"{platform.url}/v1/chat/completions"
    for _ in range(2):  # what the first left would be in the way of the second
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        with caught.value as error:
            assert error.code == 503 and b"cannot be kept on disk: No space left" in error.read()
    assert fly.ask() == "hello"
    assert fly.ask("x" * 2**21) == "x" * 2**21, "there is room again for what fits"


def test_d7_disk_that_becomes_read_only(
    small_disk: Path, tmp_path: Path, start: Callable[..., Platform]
) -> None:
    platform = start(small_disk / "h")
    hot, cold = Mayfly(platform, "hot", tmp_path), Mayfly(platform, "cold", tmp_path)
    hot.ask()
    # A whole tmpfs with files open for writing cannot be made read-only, what is seen of it can.
    with read_only(small_disk):
        assert hot.ask() == "hello"
        with pytest.raises(openai.APIStatusError) as caught:
            cold.ask()
        assert "Read-only file system" in caught.value.message
        refusing = CommandLine(small_disk / "other")("up", "--port", "0")
        assert_fails(refusing, "cannot be used", "Read-only file system", code=2)
    assert wait_until(lambda: answer_or_none(cold), "the pause to end", timeout_s=20) == "hello"


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    for options in ("bind", "remount,bind,ro"):
        source = [str(folder)] if options == "bind" else []
        subprocess.run(["mount", "-o", options, *source, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Frugal(Platform):
    """May have few files open at a time, as may its replicas."""

    def command(self, *arguments: str) -> list[str]:
        limited = f'ulimit -n {MAX_FILES}; exec "$@"'
        return ["sh", "-c", limited, "sh", *super().command(*arguments)]


def test_d7_too_many_open_files(tmp_path: Path, start: Callable[..., Platform]) -> None:
    platform = start(kind=Frugal)
    hot, cold = Mayfly(platform, "hot", tmp_path), Mayfly(platform, "cold", tmp_path)
    assert hot.ask() == "hello"
    host, port = platform.url.removeprefix("http://").split(":")
    with ExitStack() as crowd:
        for _ in range(2 * MAX_FILES):
            crowd.enter_context(socket.create_connection((host, int(port)), timeout=10))
        # The client's own connection was there before the crowd.
        assert hot.ask() == "hello"
        with pytest.raises(openai.APIStatusError) as caught:
            cold.ask()
        assert "Too many open files" in caught.value.message
        assert hot.ask() == "hello"
    assert wait_until(lambda: answer_or_none(cold), "the crowd to be gone", timeout_s=30) == "hello"
    assert len(platform.log.read_text()) < 100_000, "the same line again and again"


def test_d7_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CommandLine(tmp_path / "h")("up", "--port", str(port))
    assert_fails(done, f"127.0.0.1:{port}", "--port", code=2)


def test_d7_permission_denied(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    line = CommandLine(locked / "h")
    command = [line.python, "-m", "ekiben.cli", "up", "--port", "0"]
    if os.geteuid() == 0:  # without what puts root above permissions
        if shutil.which("setpriv") is None:
            pytest.skip("root's privileges cannot be dropped here")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, env=line.environment(), timeout=60, check=False
    )
    assert_fails(done, "cannot be used", "Permission denied", code=2)


# D8


@contextmanager
def locked(home: Path, *, readers_too: bool = False) -> Iterator[None]:
    """Another program holds the database."""
    with closing(sqlite3.connect(home / "ekiben.db", isolation_level=None)) as other:
        if readers_too:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        if readers_too:
            other.execute("CREATE TABLE mine (x)")
        yield
        other.execute("ROLLBACK")


def test_d8_locked_or_slow_in_mid_run(tmp_path: Path, start: Callable[..., Platform]) -> None:
    """Who adds a model waits for the lock or is told of it; nobody else notices anything."""
    platform = start()
    hot, cold = Mayfly(platform, "hot", tmp_path), Mayfly(platform, "cold", tmp_path)
    hot.ask()
    with ThreadPoolExecutor(1) as pool:
        with locked(platform.home):
            adding = pool.submit(refused, platform, tmp_path)
            asked = 0
            while not adding.done():
                assert hot.ask() == "hello"
                asked += 1
            assert asked > 20 and "locked by another program" in adding.result()
            assert cold.ask() == "hello", "a start needs no database"
            patient = pool.submit(Mayfly, platform, "patient", tmp_path)
            assert hot.ask() == "hello"
        assert patient.result().ask() == "hello", "the lock was given back in time"


@pytest.mark.slow
def test_d8_locked_at_the_start(tmp_path: Path, start: Callable[..., Platform]) -> None:
    home = tmp_path / "h"
    platform = start(home)
    Mayfly(platform, "kept", tmp_path)
    platform.stop()
    with locked(home, readers_too=True):
        done = CommandLine(home)("up", "--port", "0")
    assert_fails(done, "ekiben.db", "locked by another program", code=2)
    assert "kept" in {model["name"] for model in start(home).get("/api/models")["models"]}


def test_d8_corrupted_in_mid_run(tmp_path: Path, start: Callable[..., Platform]) -> None:
    platform = start()
    hot, cold = Mayfly(platform, "hot", tmp_path), Mayfly(platform, "cold", tmp_path)
    hot.ask()
    path = platform.home / "ekiben.db"
    for part in platform.home.glob("ekiben.db*"):
        with part.open("r+b") as file:
            file.write(b"\xa5" * part.stat().st_size)
    assert hot.ask() == "hello"
    assert "damaged" in refused(platform, tmp_path)
    assert cold.ask() == "hello"
    assert platform.stop() == 0
    damaged = path.read_bytes()
    assert_fails(CommandLine(platform.home)("up", "--port", "0"), "ekiben.db is damaged", code=2)
    assert path.read_bytes() == damaged, "what can be rescued is left alone"


def test_d8_schema_of_a_newer_version(tmp_path: Path, start: Callable[..., Platform]) -> None:
    platform = start()
    platform.stop()
    with closing(sqlite3.connect(platform.home / "ekiben.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert_fails(CommandLine(platform.home)("up", "--port", "0"), "newer version", "upgrade", code=2)


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_d8_schema_of_an_older_version(tmp_path: Path, start: Callable[..., Platform], revision: str) -> None:
    home = tmp_path / "h"
    home.mkdir()
    engine = create_engine(f"sqlite:///{home / 'ekiben.db'}")
    with engine.begin() as connection:
        upgrade(connection, revision)
    engine.dispose()
    platform = start(home)
    assert Mayfly(platform, "fly", tmp_path).ask() == "hello"
    platform.stop()
    with closing(sqlite3.connect(home / "ekiben.db")) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
