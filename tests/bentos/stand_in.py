"""A platform without a gateway, to be killed.

`python -m tests.bentos.stand_in FOLDER ORPHAN_S fork|spawn COUNT OPTIONS`: the options are the parrot's, in
JSON. Starts replicas of the parrot, holds a stream of the first open, and tells of it: one word a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from ekiben.fleet.processes.berths import Berths
from ekiben.fleet.processes.fork_launcher import ForkLauncher
from ekiben.fleet.processes.launcher import Launcher, SpawnLauncher
from ekiben.runtime.protocol import Report, Stage
from tests.bentos.processes import parrot_plan


def make_launcher(folder: Path, *, orphan_s: float, kind: str) -> Launcher:
    """As the platform makes it."""
    (folder / "logs").mkdir(exist_ok=True)
    berths = Berths(run_folder=folder / "run", log_folder=folder / "logs", orphan_s=orphan_s)
    if kind == "spawn":
        return SpawnLauncher(berths=berths, environment=os.environ)
    return ForkLauncher(berths=berths, environment=os.environ, log_folder=folder / "logs")


async def main(folder: Path, orphan_s: float, kind: str, count: int, options: dict[str, Any]) -> None:
    reports: asyncio.Queue[Report] = asyncio.Queue()
    launcher = make_launcher(folder, orphan_s=orphan_s, kind=kind)
    processes = [
        launcher.launch(
            f"r{number}",
            plan=parrot_plan(folder / "cracker", **options),
            go=True,
            on_report=reports.put_nowait,
            on_exit=lambda reason: print(reason, flush=True),
        )
        for number in range(1, count + 1)
    ]
    while count:
        report = await reports.get()
        count -= report.stage is Stage.READY
        if report.progress == 0.5:
            print("loading", flush=True)
    await hold_stream(processes[0].address.location)


async def hold_stream(path: str) -> None:
    body = {"model": "polly", "messages": [{"role": "user", "content": "one two"}], "stream": True}
    transport = httpx.AsyncHTTPTransport(uds=path)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=None) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        await anext(response.aiter_lines())
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(
        main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
    )
