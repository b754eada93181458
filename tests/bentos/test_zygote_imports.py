"""What a fork finds in memory: with each engine, everything up to its first answer."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ekiben.catalog.specs import resolve_model
from ekiben.fleet.processes.berths import Berths, Plan
from ekiben.fleet.processes.fork_launcher import ForkLauncher
from ekiben.plugins.bentos import bento_folder
from ekiben.plugins.discovery import discover
from ekiben.runtime.protocol import Report, Stage

WAIT_S = 120.0
TORCH = ("all-minilm-l6-v2", "efficientnet-lite0")
"""Their zygotes alone take half a minute on a machine that is busy."""
KNOWN_FROM_WEIGHTS_ONLY = ("transformers.models.",)
WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if order := os.environ.get("EKIBEN_ORDER"):
            with open(os.path.join(os.path.dirname(order), "imports"), "a") as imports:
                print(name, file=imports)

sys.meta_path.insert(0, Watch())
"""
"""Notes what a replica looks for; a zygote has no order."""


def silence() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(32_000))
    return file.getvalue()


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (200, 60), "white").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


REQUESTS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "smollm2-135m-instruct": (
        "chat/completions",
        lambda: {"json": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}},
    ),
    "all-minilm-l6-v2": ("embeddings", lambda: {"json": {"input": "hello"}}),
    "piper-en-us-joe": ("audio/speech", lambda: {"json": {"input": "hello", "voice": "default"}}),
    "whisper-base": ("audio/transcriptions", lambda: {"files": {"file": ("a.wav", silence())}}),
    "pp-ocr-v6": ("images/ocr", lambda: {"json": {"image": picture()}}),
    "efficientnet-lite0": ("images/classify", lambda: {"json": {"image": picture()}}),
}


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=[pytest.mark.slow] if m in TORCH else []) for m in REQUESTS]
)
async def test_nothing_is_imported_between_fork_and_first_answer(
    folder: Path, weights: Callable[[str], Path], model: str
) -> None:
    (folder / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    (folder / "logs").mkdir()
    launcher = ForkLauncher(
        berths=Berths(run_folder=folder / "run", log_folder=folder / "logs"),
        environment={**os.environ, "PYTHONPATH": path},
        log_folder=folder / "logs",
    )
    reports: asyncio.Queue[Report] = asyncio.Queue()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    spec = resolve_model(model, plugins=discover())
    plan = Plan(
        model=spec,
        variant=0,
        weights=weights(model),
        bento=bento_folder(spec.family),
        device="cpu",
        threads=1,
    )
    process = launcher.launch(
        "r1", plan=plan, go=True, on_report=reports.put_nowait, on_exit=ended.set_result
    )
    async with asyncio.timeout(WAIT_S):
        while (report := await reports.get()).stage is not Stage.READY:
            assert report.stage is not Stage.FAILED, report.error
    await ask(process.address.location, model)
    assert launcher.zygotes(), "it was forked"
    noted = Path(process.address.location).with_name("imports")
    imported = noted.read_text().split() if noted.exists() else []
    process.kill()
    await ended
    launcher.close()
    assert [name for name in imported if not name.startswith(KNOWN_FROM_WEIGHTS_ONLY)] == []


async def ask(socket: str, model: str) -> None:
    path, make = REQUESTS[model]
    request = make()
    body = "json" if "json" in request else "data"
    request[body] = {"model": model, **request.get(body, {})}
    transport = httpx.AsyncHTTPTransport(uds=socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=WAIT_S) as client:
        response = await client.post(f"/v1/{path}", **request)
    assert response.status_code == 200, response.text
