"""What the gateway adds to a warm request: the same request to the replica's socket and through the platform.

One client with one connection each way, turn by turn, so that noise hits both alike; what the gateway's
process takes is told by the kernel. With a replica that costs nothing, request after request and with a
pause before each, when nothing of the platform is in the processor's caches any more; then with a real one.
Streamed events are counted as they come from one fast replica, and one at a time from many streams at once.
"""

from __future__ import annotations

import asyncio
import json
import statistics
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
    (folder / "slow").mkdir()
    with scripted_platform(folder / "slow", weights / "weights", token_ms=TOKEN_MS) as platform:
        yield Pair.of(platform, str(platform.socket)).crowd(platform.url, request_us)
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
        before_s = self._cpu_s()
        for _ in range(rounds):
            time.sleep(pause_s)
            direct_s = self.direct.ask(ONE)
            time.sleep(pause_s)
            pairs.append((direct_s, self.through.ask(ONE)))
        cpu_us = (self._cpu_s() - before_s) / rounds * 1e6
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
        before_s = self._cpu_s()
        for _ in range(STREAMS):
            self.through.ask(MANY)
        used_us = (self._cpu_s() - before_s) * 1e6 - STREAMS * request_us
        return {"row": "streamed events, many at a time", "cpu_us": round(used_us / STREAMS / EVENTS, 1)}

    def crowd(self, url: str, request_us: float) -> dict[str, Any]:
        """Streams at the pace of an engine, side by side."""
        before_s = self._cpu_s()
        uvloop.run(_ask_at_once(url, CROWD))
        used_us = (self._cpu_s() - before_s) * 1e6 - CROWD * request_us
        return {
            "row": f"streamed events, one at a time, of {CROWD} streams",
            "cpu_us": round(used_us / CROWD / EVENTS, 1),
        }

    def _cpu_s(self) -> float:
        times = self.gateway.cpu_times()
        return float(times.user + times.system)


async def _ask_at_once(url: str, count: int) -> None:
    await asyncio.gather(*(ask(url, MANY) for _ in range(count)))
