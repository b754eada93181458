"""Cold model to first token: the bare engine in a fresh process beside the platform, alternating."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.home import MODEL, weights_of
from tests.running import Platform

RUNS = 7
PROMPT = "Name three fruits."

BARE_ENGINE = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 4096
params.n_parallel = 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.verbosity = -1
params.hostnames = [sys.argv[2]]
server = xllamacpp.Server(params)
def first(chunk):
    if chunk["choices"][0]["delta"].get("content"):
        print("first token", flush=True)
        return True
    return False
server.handle_chat_completions(
    {"messages": [{"role": "user", "content": sys.argv[3]}], "max_tokens": 1, "stream": True}, first
)
"""


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    gguf = weights_of(MODEL, weights)
    platform = Platform(folder / "home", weights / "weights").start()
    bare: list[float] = []
    ours: list[float] = []
    stages: list[dict[str, float]] = []
    try:
        for _ in range(RUNS):
            bare.append(bare_engine(gguf, folder))
            ours.append(first_token(platform))
            (replica,) = platform.model(MODEL)["replicas"]
            stages.append(replica["stages_s"])
            platform.post(f"/api/models/{MODEL}/stop")
    finally:
        platform.stop()
    yield {"row": "bare engine, fresh process", "median_s": round(statistics.median(bare), 3), "runs": RUNS}
    yield {
        "row": "ekiben, spawned replica",
        "median_s": round(statistics.median(ours), 3),
        "ratio_to_bare": round(statistics.median(ours) / statistics.median(bare), 2),
        "stages_s": {name: round(statistics.median(s[name] for s in stages), 3) for name in stages[0]},
        "runs": RUNS,
    }
    yield from warm_row(folder / "warm", weights)


def bare_engine(gguf: Path, folder: Path) -> float:
    """Seconds from the start of the process to the first token."""
    socket = folder / "bare.sock"
    socket.unlink(missing_ok=True)
    started = time.perf_counter()
    command = [sys.executable, "-c", BARE_ENGINE, str(gguf), str(socket), PROMPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        while b"first token" not in child.stdout.readline():
            assert child.poll() is None, "the bare engine ended"
        elapsed = time.perf_counter() - started
        child.kill()
    return elapsed


def first_token(platform: Platform) -> float:
    """Seconds from sending a streamed chat to the first event with content."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 1,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{platform.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as response:
        for line in response:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - started
    raise AssertionError("the stream had no content")


def warm_row(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    platform = Platform(folder, weights / "weights").start()
    try:
        first_token(platform)
        times = [first_token(platform) for _ in range(20)]
        yield {"row": "ekiben, warm", "median_s": round(statistics.median(times), 4), "runs": len(times)}
    finally:
        platform.stop()
