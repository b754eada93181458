"""What the gateway adds to a warm request: the same request to the replica's socket and through the platform.

One client with one connection each way, turn by turn, so that noise hits both alike; what the gateway's
process takes is told by the kernel. With a replica that costs nothing, request after request and with a
pause before each, when nothing of the platform is in the processor's caches any more; then with a real one.
Streamed events are counted as they come from one fast replica, and one at a time from many streams at once,
in step or not, there beside a loop that only reads and writes, which is the least that any gateway takes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop

from ekiben.gateway.relay.prefixes import chat_prefixes
from tests.bench.home import MODEL
from tests.bench.scripted_platform import scripted_platform
from tests.bench.wire import Client, ask, request
from tests.running import Platform

ROUNDS: Final = 1500
PAUSED_ROUNDS: Final = 200
PAUSE_S: Final = 0.02
EVENTS: Final = 1000
STREAMS: Final = 5
CROWD: Final = 32
CROWD_ROUNDS: Final = 3
TOKEN_MS: Final = 4
CONVERSATION: Final = json.dumps({"messages": [{"role": "user", "content": "word " * 80}] * 20}).encode()
BODY: Final = {"model": MODEL, "prompt": "One", "max_tokens": 1, "temperature": 0}
ONE: Final = request("/v1/completions", BODY)
MANY: Final = request("/v1/completions", BODY | {"max_tokens": EVENTS, "stream": True})


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    with scripted_platform(folder, weights / "weights") as platform:
        pair = Pair.of(platform, str(platform.socket))
        request_us, row = pair.compare("request after request", rounds=ROUNDS)
        yield row
        _, row = pair.compare("a request now and then", rounds=PAUSED_ROUNDS, pause_s=PAUSE_S)
        yield row
        yield pair.stream(request_us)
    for in_step, how in ((True, "all in step, as of one batch"), (False, "each when it likes")):
        slow = folder / f"slow-{in_step}"
        slow.mkdir()
        with scripted_platform(slow, weights / "weights", token_ms=TOKEN_MS, in_step=in_step) as platform:
            socket = str(platform.socket)
            yield crowd(Pair.of(platform, socket).gateway, platform.url, socket, how=how)
    real = Platform(folder / "real", weights / "weights").start()
    try:
        real.post("/v1/completions", BODY)
        (replica,) = real.model(MODEL)["replicas"]
        pair = Pair.of(real, replica["address"].removeprefix("unix://"))
        _, row = pair.compare(f"one token of {MODEL}", rounds=PAUSED_ROUNDS)
        yield row
    finally:
        real.stop()
    per_call_s = min(timeit.repeat(lambda: chat_prefixes(CONVERSATION), repeat=7, number=200)) / 200
    yield {"row": "hashes of a conversation of 20 messages", "cpu_us": round(per_call_s * 1e6, 1)}


@dataclass
class Pair:
    """The two ways to a replica."""

    direct: Client
    through: Client
    gateway: psutil.Process

    @classmethod
    def of(cls, platform: Platform, socket: str) -> Pair:
        assert platform.process is not None
        pair = cls(Client(socket), Client(platform.url), psutil.Process(platform.process.pid))
        for _ in range(20):
            pair.through.ask(ONE)  # first, since it may have to start the replica
            pair.direct.ask(ONE)
        return pair

    def compare(self, name: str, *, rounds: int, pause_s: float = 0.0) -> tuple[float, dict[str, Any]]:
        """The CPU time that the gateway took for a request, in µs, and the row."""
        pairs = []
        before_s = cpu_s(self.gateway)
        for _ in range(rounds):
            time.sleep(pause_s)
            direct_s = self.direct.ask(ONE)
            time.sleep(pause_s)
            pairs.append((direct_s, self.through.ask(ONE)))
        cpu_us = (cpu_s(self.gateway) - before_s) / rounds * 1e6
        return cpu_us, {
            "row": name,
            "replica_p50_ms": round(statistics.median(pair[0] for pair in pairs) * 1000, 3),
            "platform_p50_ms": round(statistics.median(pair[1] for pair in pairs) * 1000, 3),
            "added_p50_ms": round(statistics.median(t - d for d, t in pairs) * 1000, 3),
            "gateway_cpu_us": round(cpu_us),
            "rounds": rounds,
        }

    def stream(self, request_us: float) -> dict[str, Any]:
        """One stream after the other, its events as fast as they come."""
        before_s = cpu_s(self.gateway)
        for _ in range(STREAMS):
            self.through.ask(MANY)
        used_us = (cpu_s(self.gateway) - before_s) * 1e6 - STREAMS * request_us
        return {"row": "streamed events, many at a time", "cpu_us": round(used_us / STREAMS / EVENTS, 1)}


def crowd(gateway: psutil.Process, url: str, socket: str, *, how: str) -> dict[str, Any]:
    """Streams at the pace of an engine, side by side; what begins and ends them counts too."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.bare_relay", socket], stdout=subprocess.PIPE, text=True
    ) as relay:
        assert relay.stdout is not None
        ways = {"gateway": (gateway, url)}
        ways["bare_loop"] = (psutil.Process(relay.pid), f"http://127.0.0.1:{int(relay.stdout.readline())}")
        taken_us: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(CROWD_ROUNDS):
            for way, (process, address) in ways.items():
                before_s = cpu_s(process)
                uvloop.run(_ask_at_once(address, CROWD))
                taken_us[way].append((cpu_s(process) - before_s) * 1e6 / CROWD / EVENTS)
        relay.kill()
    cpu_us = {f"{way}_cpu_us": round(statistics.median(taken), 1) for way, taken in taken_us.items()}
    return {"row": f"streamed events, one at a time, of {CROWD} streams, {how}", **cpu_us}


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _ask_at_once(url: str, count: int) -> None:
    await asyncio.gather(*(ask(url, MANY) for _ in range(count)))
