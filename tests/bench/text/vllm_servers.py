"""vLLM under the platform and by itself: the same folder with the same flags, and the first token of each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.bench.cold.servers import free_port
from tests.running import Platform

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
        subprocess.run(
            running.command("model", "add", str(own / "spec.json")), check=True, stdout=subprocess.DEVNULL
        )
        yield running
    finally:
        running.stop()
        shutil.rmtree(own, ignore_errors=True)


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
