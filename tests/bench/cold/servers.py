"""Servers of others as processes: started on a free port of loopback, ended with all their children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.bench.cold.measure import Unavailable

_END_S: Final = 10.0


@contextmanager
def running(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own, so that nothing of it is left behind."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=None if env is None else {**os.environ, **env},
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], *, timeout_s: float = 120) -> None:
    """Until something listens. Raises Unavailable."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            pass
        _check(process, deadline, f"nothing listens on port {port}")
        time.sleep(0.005)


def wait_for_answer(url: str, process: subprocess.Popen[bytes], *, timeout_s: float = 120) -> None:
    """Until a GET is answered, whatever the status below 500. Raises Unavailable."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
        except OSError:
            pass
        _check(process, deadline, f"{url} does not answer")
        time.sleep(0.1)


def _check(process: subprocess.Popen[bytes], deadline: float, problem: str) -> None:
    if process.poll() is not None:
        raise Unavailable(f"the server ended with exit code {process.returncode}")
    if time.monotonic() > deadline:
        raise Unavailable(problem)
