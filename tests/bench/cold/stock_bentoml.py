"""A plain BentoML service around the same engine, served by `bentoml serve` as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.cold.measure import Bench, Contender, Shoot, Shot
from tests.bench.cold.questions import Chat
from tests.bench.cold.servers import free_port, running, wait_for_port

NAME: Final = "bentoml serve, fresh process"
SERVICE: Final = """
import asyncio, json, os
import bentoml
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

async def chat(request):
    body, chunks, loop = await request.json(), asyncio.Queue(), asyncio.get_running_loop()
    def on_chunk(chunk):
        loop.call_soon_threadsafe(chunks.put_nowait, chunk)
        return False
    def work():
        engine.handle_chat_completions(body, on_chunk)
        loop.call_soon_threadsafe(chunks.put_nowait, None)
    engine = bentoml.get_current_service().engine
    done = loop.run_in_executor(None, work)
    async def events():
        while (chunk := await chunks.get()) is not None:
            yield f"data: {json.dumps(chunk)}\\n\\n"
        await done
    return StreamingResponse(events(), media_type="text/event-stream")

@bentoml.service
@bentoml.asgi_app(Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])]))
class Stock:
    def __init__(self):
        import xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path = os.environ["STOCK_WEIGHTS"]
        params.verbosity = -1
        params.hostnames = [os.environ["STOCK_SOCKET"]]
        self.engine = xllamacpp.Server(params)
"""


def cold(bench: Bench, weights: Path) -> Contender:
    """From the command to the first token."""

    @contextmanager
    def open_() -> Iterator[Shoot]:
        folder = bench.folder / "stock"
        folder.mkdir(exist_ok=True)
        (folder / "service.py").write_text(SERVICE, encoding="utf-8")
        yield lambda: _shoot(folder, weights)

    return Contender(NAME, open_)


def _shoot(folder: Path, weights: Path) -> Shot:
    port = free_port()
    socket = folder / "engine.sock"
    socket.unlink(missing_ok=True)
    env = {
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "STOCK_WEIGHTS": str(weights),
        "STOCK_SOCKET": str(socket),
    }
    command = [sys.executable, "-m", "bentoml", "serve", str(folder), "--port", str(port)]
    started = time.perf_counter()
    with running(command, log=folder / "log", env=env) as process:
        wait_for_port(port, process)
        listening = time.perf_counter() - started
        Chat("any")(f"http://127.0.0.1:{port}")
        seconds = time.perf_counter() - started
    return Shot(seconds, {"supervisor": listening, "worker": seconds - listening})
