"""Xinference: a model is launched by hand, and asked then. Both count."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Bench, Contender, Shoot, Shot, Unavailable
from tests.bench.cold.peers import environment
from tests.bench.cold.questions import Chat, call
from tests.bench.cold.servers import free_port, running, wait_for_answer

NAME: Final = "xinference, launch and first token"
_STEPS: Final = (("torch==2.13.0",), ("xinference==4.1.0", "xllamacpp", "torch==2.13.0"))
"""A torch that is chosen freely would bring gigabytes of CUDA."""
_MODEL: Final = "model"
_ACCOUNT: Final = {"username": "bench", "password": "only-for-this-run"}
_TOKEN: Final = re.compile(r"Setup token: (\S+)")


def cold(bench: Bench, weights: Path) -> Contender:
    @contextmanager
    def open_() -> Iterator[Shoot]:
        folder = environment("xinference", *_STEPS, cache=bench.cache)
        log = bench.folder / "xinference.log"
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(folder / "bin" / "xinference-local"), "--host", "127.0.0.1", "--port", str(port)]
        home = str(bench.folder / "xinference")
        with running(command, log=log, env={"XINFERENCE_HOME": home}) as process:
            wait_for_answer(url + "/v1/admin/setup/status", process)
            try:
                headers = _log_in(url, log)
            except OSError as error:
                raise Unavailable(f"it lets nobody in: {error}") from None
            yield lambda: _shoot(url, weights, headers)

    return Contender(NAME, open_)


def _log_in(url: str, log: Path) -> Mapping[str, str]:
    found = _TOKEN.search(log.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise Unavailable("its log has no setup token")
    call("POST", url + "/v1/admin/setup", {"setup_token": found[1], **_ACCOUNT})
    token = call("POST", url + "/token", _ACCOUNT)["access_token"]
    return {"authorization": f"Bearer {token}"}


def _shoot(url: str, weights: Path, headers: Mapping[str, str]) -> Shot:
    wanted = {
        "model_uid": _MODEL,
        # A family that it knows; the weights, and with them the template, are those of the others.
        "model_name": "qwen2.5-instruct",
        "model_engine": "llama.cpp",
        "model_format": "ggufv2",
        "model_size_in_billions": "0_5",
        "quantization": "q4_0",
        "model_path": str(weights),
        "enable_virtual_env": False,
    }
    started = time.perf_counter()
    try:
        call("POST", url + "/v1/models", wanted, headers=headers)
        launched = time.perf_counter() - started
        Chat(_MODEL, headers=headers)(url)
        seconds = time.perf_counter() - started
        call("DELETE", f"{url}/v1/models/{_MODEL}", headers=headers)
    except OSError as error:
        raise Unavailable(f"the model cannot be launched: {error}") from None
    return Shot(seconds, {"launch": launched, "first_token": seconds - launched})
