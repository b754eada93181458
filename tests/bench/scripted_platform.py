"""A platform in a process of its own whose one replica is a scripted one: gateway and fleet, no engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ekiben import app
from ekiben.fleet.types import Address
from ekiben.runtime.protocol import Report, Stage
from ekiben.settings import load_settings
from tests.running import Platform


class ScriptedPlatform(Platform):
    """As `ekiben up`, but what it launches is there already and listens on a socket."""

    def __init__(self, home: Path, weights: Path, socket: Path) -> None:
        super().__init__(home, weights)
        self.socket = socket

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", __name__, str(self.home), str(self.socket)]


@contextmanager
def scripted_platform(
    folder: Path, weights: Path, *, token_ms: float = 0, slots: int = 1000, in_step: bool = False
) -> Iterator[ScriptedPlatform]:
    """Replica and platform, up."""
    socket = folder / "scripted.sock"
    command = [sys.executable, "-m", "tests.bench.scripted_replica", str(socket), str(token_ms), str(slots)]
    command += ["step"] if in_step else []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as replica:
        platform = ScriptedPlatform(folder / "home", weights, socket)
        try:
            assert replica.stdout is not None and replica.stdout.readline() == b"ready\n"
            platform.start()
            yield platform
        finally:
            if platform.process is not None:
                platform.stop()
            replica.kill()


class _Process:
    """What the fleet sees of the replica."""

    pid: int | None = None

    def __init__(self, socket: str, on_exit: Callable[[str], None]) -> None:
        self.address = Address("unix", socket)
        self._on_exit = on_exit

    def go(self) -> None:
        """It is ready already."""

    def sleep(self) -> None:
        """It never does."""

    def wake(self) -> None:
        """It never sleeps."""

    def terminate(self) -> None:
        asyncio.get_running_loop().call_soon(self._on_exit, "it was asked to end")

    def kill(self) -> None:
        """It has ended before."""

    def memory_bytes(self) -> int | None:
        return None

    def memory(self) -> dict[str, int] | None:
        return None


class _Launcher:
    def __init__(self, socket: str) -> None:
        self._socket = socket

    def launch(
        self,
        replica_id: str,
        *,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
        **_: Any,
    ) -> _Process:
        asyncio.get_running_loop().call_soon(on_report, Report(stage=Stage.READY))
        return _Process(self._socket, on_exit)

    async def adopt(self, **_: Any) -> tuple[()]:
        return ()

    def zygotes(self) -> tuple[()]:
        return ()

    def stop_zygote(self, engine: str) -> None:
        """There are none."""

    def close(self) -> None:
        """It has nothing."""


if __name__ == "__main__":
    home, socket = sys.argv[1:3]
    app.make_launcher = lambda *_: _Launcher(socket)
    sys.exit(app.run(load_settings({"home": home, "port": 0})))
