"""`python -m tests.bench.vllm_cold HOME [RUNS]`: vLLM's cold start under the platform and under `vllm serve`.

HOME is a platform's home in which `ekiben engine install vllm` was run. Both serve the same folder with the
same flags; a run is from the request, or the command, to the first token of a streamed chat. Prints JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.cold.servers import free_port
from tests.running import Platform
from tests.smollm2_folder import smollm2_folder

NAME: Final = "smol"
CONTEXT: Final = 2048
SEQUENCES: Final = 32
CACHE_MB: Final = 512
DEADLINE_S: Final = 900
REQUEST: Final = {
    "model": NAME,
    "messages": [{"role": "user", "content": "Name three fruits."}],
    "max_tokens": 8,
    "temperature": 0,
    "stream": True,
}


def main(home: Path, runs: int) -> None:
    folder = smollm2_folder()
    with platform(home, folder) as running:
        _print("ekiben_first_start_s", wait_for_first_token(running.url))
        forked = median(_cold(running) for _ in range(runs))
    _print("ekiben_cold_s", forked)
    for name, stock in (("same_flags", False), ("stock", True)):
        served = median(_served(home, folder, stock=stock) for _ in range(runs))
        _print(f"vllm_serve_{name}_s", served)
        _print(f"ratio_to_{name}", forked / served)


def _print(name: str, value: float) -> None:
    print(json.dumps({"benchmark": "vllm-cold", name: round(value, 3)}), flush=True)


@contextmanager
def platform(home: Path, folder: Path) -> Iterator[Platform]:
    """One with the model in its catalog, in a home of its own that shares the engine's environment."""
    own = Path(tempfile.mkdtemp(prefix="ek-"))
    (own / "engines").symlink_to(home.absolute() / "engines", target_is_directory=True)
    options = {"max_model_len": CONTEXT, "max_num_seqs": SEQUENCES, "kv_cache_mb": CACHE_MB}
    source = {"kind": "local", "path": str(folder)}
    variant = {"format": "safetensors", "engine": "vllm", "source": source, "options": options}
    spec = {"name": NAME, "family": "llm", "abilities": ["chat", "complete"], "variants": [variant]}
    (own / "spec.json").write_text(json.dumps(spec))
    running = Platform(own, None).start()
    try:
        subprocess.run(running.command("model", "add", str(own / "spec.json")), check=True)
        yield running
    finally:
        running.stop()
        shutil.rmtree(own, ignore_errors=True)


def _cold(running: Platform) -> float:
    """From a stopped model. The zygote is there, as it is on a platform in use."""
    running.post(f"/api/models/{NAME}/stop")
    running.wait_for(NAME, "cold")
    return wait_for_first_token(running.url)


def _served(home: Path, folder: Path, *, stock: bool) -> float:
    """From the command on."""
    began_s = time.monotonic()
    with server(home, folder, stock=stock) as (url, process):
        wait_for_first_token(url, process)
        return time.monotonic() - began_s


@contextmanager
def server(home: Path, folder: Path, *, stock: bool) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`vllm serve`, which may not listen yet; `stock`: as it comes, but for the size of its cache."""
    port = free_port()
    flags = ["--served-model-name", NAME, "--port", str(port), "--host", "127.0.0.1"]
    flags += ["--kv-cache-memory-bytes", str(CACHE_MB * 2**20), "--max-num-seqs", str(SEQUENCES)]
    flags += ["--max-model-len", str(CONTEXT), *([] if stock else ["--enforce-eager"])]
    python = home.absolute() / "engines" / "vllm" / "current" / "bin" / "python"
    # What `vllm serve` runs; the command itself does not work in builds that are not called `vllm`.
    server_of_vllm = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    process = subprocess.Popen(
        [*server_of_vllm, *flags],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def wait_for_first_token(url: str, server: subprocess.Popen[bytes] | None = None) -> float:
    """Seconds to that of a chat; with a `server` that may not listen yet, as soon as it does."""
    began_s = time.monotonic()
    body = json.dumps(REQUEST).encode()
    headers = {"content-type": "application/json"}
    while True:
        request = urllib.request.Request(f"{url}/v1/chat/completions", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
                for line in response:
                    if _says_something(line):
                        return time.monotonic() - began_s
            raise RuntimeError("the stream had no text")
        except (urllib.error.URLError, ConnectionError):
            if server is None or server.poll() is not None:
                raise
            time.sleep(0.05)


def _says_something(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    event: dict[str, Any] = json.loads(line[6:])
    return any(choice["delta"].get("content") for choice in event["choices"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
