"""Starts replicas and Bentos, and ends them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ekiben.runtime.protocol import Order
from tests.bentos.processes import PARROT, ROOT, Replica, Served, parrot_spec


@pytest.fixture
def folder() -> Iterator[Path]:
    """Scratch with a path that is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="eb-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def parrot_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH on which the parrot is an installed plugin."""
    installed = tmp_path_factory.mktemp("site") / "ekiben_parrot-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ekiben-parrot\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[ekiben.plugins]\nparrot = ekiben_parrot\n")
    return os.pathsep.join(filter(None, (str(installed.parent), str(PARROT), os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="module")
def start_replica(parrot_path: str) -> Iterator[Callable[..., Replica]]:
    """`start_replica(load="fails")`: the options are the parrot's.

    `parent` is a script which starts the replica of the order that it is given, instead of the test.
    """
    started: list[Replica] = []

    def start(
        *, cracker: bytes = b"cracker", parent: str = "", go: bool = True, device: str = "cpu", **options: Any
    ) -> Replica:
        folder = Path(tempfile.mkdtemp(prefix="eb-"))
        weights = folder / "cracker"
        weights.write_bytes(cracker)
        channel, theirs = socket.socketpair()
        order = Order(
            replica_id="r1",
            model=parrot_spec(weights, **options),
            variant=0,
            weights=weights,
            device=device,
            threads=1,
            folder=folder,
            socket=folder / "replica.sock",
            bento=ROOT / "bentos" / "llm",
            go=go,
            report_fd=theirs.fileno(),
            parent_pid=os.getpid(),
        )
        path = folder / "order.json"
        path.write_text(order.model_dump_json())
        log = folder / "log.txt"
        module = ["-c", parent] if parent else ["-m", "ekiben.runtime.replica"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *module, str(path)],
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": parrot_path},
            )
        theirs.close()
        started.append(Replica(order, process, channel, log))
        return started[-1]

    yield start
    for replica in started:
        replica.close()
        shutil.rmtree(replica.order.folder, ignore_errors=True)


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Served]]:
    """`serve("/path/of/a/bento", "--arg", "model=x", env={…})`."""
    started: list[Served] = []

    def start(target: str, *arguments: str, env: dict[str, str] | None = None) -> Served:
        started.append(Served(target, folder, *arguments, env=env or {}))
        return started[-1]

    yield start
    for served in started:
        served.close()
