"""What the gateway adds to a warm request: the same request to the replica's socket and through the platform.

One-token completions, one connection each, alternating, so that noise hits both alike.
"""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.bench.home import MODEL
from tests.running import Platform

ROUNDS = 300
BODY = json.dumps({"model": MODEL, "prompt": "One", "max_tokens": 1, "temperature": 0}).encode()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("replica")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    platform = Platform(folder / "home", weights / "weights").start()
    try:
        platform.post("/v1/completions", json.loads(BODY))
        (replica,) = platform.model(MODEL)["replicas"]
        direct = UnixConnection(replica["address"].removeprefix("unix://"))
        through = http.client.HTTPConnection(urlsplit(platform.url).netloc)
        assert platform.process is not None
        gateway = psutil.Process(platform.process.pid)
        ask_direct, ask_through = asker(direct), asker(through)
        for _ in range(20):
            ask_direct()
            ask_through()
        before = gateway.cpu_times()
        pairs = [(ask_direct(), ask_through()) for _ in range(ROUNDS)]
        after = gateway.cpu_times()
        used_s = (after.user + after.system) - (before.user + before.system)
        direct_s = statistics.median(pair[0] for pair in pairs)
        through_s = statistics.median(pair[1] for pair in pairs)
        yield {
            "row": "warm completion of one token",
            "replica_p50_ms": round(direct_s * 1000, 3),
            "platform_p50_ms": round(through_s * 1000, 3),
            "added_p50_ms": round(statistics.median(t - d for d, t in pairs) * 1000, 3),
            "gateway_cpu_us": round(used_s / ROUNDS * 1e6),
            "rounds": ROUNDS,
        }
    finally:
        platform.stop()


def asker(connection: http.client.HTTPConnection) -> Callable[[], float]:
    """A call that sends the request and gives the seconds until the answer was read."""

    def ask() -> float:
        started = time.perf_counter()
        connection.request("POST", "/v1/completions", BODY, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        return time.perf_counter() - started

    return ask
