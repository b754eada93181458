"""Replicas that hang: a real one is stopped and goes on, and a socket behind which nobody answers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import psutil

from ekiben.fleet.processes.probe import Prober
from ekiben.fleet.types import Address
from ekiben.runtime.protocol import Stage
from tests.bentos.processes import Replica

Start = Callable[..., Replica]


class Watch:
    """A prober, and what it told."""

    def __init__(self, *ready: tuple[str, Address]) -> None:
        self.ready = list(ready)
        self.told: list[tuple[str, str]] = []
        self.prober = Prober(
            lambda: self.ready,
            on_silent=lambda replica_id: self.told.append(("silent", replica_id)),
            on_answered=lambda replica_id: self.told.append(("answered", replica_id)),
            every_s=0.01,
            deadline_s=2.0,
        )


async def test_replica_that_is_stopped_is_silent_until_it_goes_on(start_replica: Start) -> None:
    replica, other = start_replica(), start_replica()
    replica.report_of(Stage.READY)
    other.report_of(Stage.READY)
    addresses = [Address("unix", str(r.order.socket)) for r in (replica, other)]
    watch = Watch(("a", addresses[0]), ("b", addresses[1]))
    await watch.prober.go_round()
    assert watch.told == []
    os.kill(replica.process.pid, signal.SIGSTOP)
    await watch.prober.go_round()
    await watch.prober.go_round()
    assert watch.told == [("silent", "a")]
    os.kill(replica.process.pid, signal.SIGCONT)
    await watch.prober.go_round()
    await watch.prober.go_round()
    assert watch.told == [("silent", "a"), ("answered", "a")]


async def test_replica_that_ends_meanwhile_is_not_told_of(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / "deaf.sock"))
        deaf.listen()
        watch = Watch(("a", Address("unix", str(folder / "deaf.sock"))))
        watch.prober = Prober(
            lambda: [watch.ready.pop()] if watch.ready else [],
            on_silent=lambda replica_id: watch.told.append(("silent", replica_id)),
            on_answered=lambda replica_id: watch.told.append(("answered", replica_id)),
            deadline_s=0.05,
        )
        await watch.prober.go_round()
        assert watch.told == []


async def test_probes_go_on_until_they_are_cancelled_and_leave_no_connection(folder: Path) -> None:
    count = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        assert (await reader.readline()) == b"GET /livez HTTP/1.1\r\n"
        count += 1
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" if count < 20 else b"nonsense\r\n\r\n")
        await writer.drain()
        writer.close()

    files = psutil.Process().num_fds()
    path = str(folder / "replica.sock")
    server = await asyncio.start_unix_server(answer, path)
    watch = Watch(("a", Address("unix", path)))
    told = asyncio.Event()
    watch.prober = Prober(
        lambda: watch.ready, on_silent=lambda _: told.set(), on_answered=lambda _: None, every_s=0.01
    )
    running = asyncio.create_task(watch.prober.run())
    async with asyncio.timeout(30):
        await told.wait()
    running.cancel()
    await asyncio.wait([running])
    assert count >= 20
    server.close()
    await server.wait_closed()
    assert psutil.Process().num_fds() <= files
