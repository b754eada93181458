"""Cold model to first answer: the bare library in a fresh process beside the platform, alternating.

For GGUF the answer is the first token of a stream, otherwise the whole of a short request. The bare
process says how long it took altogether, and without its imports: that is what a process would need
which has imported everything and loads the model now.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import time
import urllib.request
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.home import MODEL, weights_of
from tests.running import Platform

RUNS = 7
CROWD = 8
PROMPT = "Name three fruits."

BARE_LLAMA = """
import xllamacpp
imported()
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 4096
params.n_parallel = 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.verbosity = -1
params.hostnames = [sys.argv[2] + "/bare.sock"]
server = xllamacpp.Server(params)
def first(chunk):
    if chunk["choices"][0]["delta"].get("content"):
        answered()
        return True
    return False
server.handle_chat_completions(
    {"messages": [{"role": "user", "content": "Name three fruits."}], "max_tokens": 1, "stream": True}, first
)
"""
BARE_EMBEDDING = """
import torch
from sentence_transformers import SentenceTransformer
torch.set_num_threads(2)
imported()
SentenceTransformer(sys.argv[1], device="cpu").encode(["Name three fruits."])
answered()
"""
BARE_WHISPER = """
from faster_whisper import WhisperModel
imported()
model = WhisperModel(sys.argv[1], device="cpu", compute_type="int8", cpu_threads=2)
list(model.transcribe(sys.argv[2] + "/tone.wav", language="en")[0])
answered()
"""
BARE_PIPER = """
from piper import PiperVoice
imported()
for chunk in PiperVoice.load(sys.argv[1]).synthesize("Name three fruits."):
    pass
answered()
"""
CLOCK = """
import os, sys, time
def imported():
    print("imported", flush=True)
def answered():
    print("answered", flush=True)
"""


@dataclass(frozen=True)
class Contest:
    """One model, by its bare library and by the platform."""

    model: str
    bare: str
    ask: Callable[[Platform, Path], None]
    """Returns with the first answer."""


def run(folder: Path, weights: Path) -> Iterator[dict[str, Any]]:
    _write_tone(folder / "tone.wav")
    platform = Platform(folder / "home", weights / "weights").start()
    try:
        for contest in CONTESTS:
            yield from _compare(contest, platform, weights, folder)
        yield _crowd(platform, folder)
        times = [_seconds(_chat, platform, folder) for _ in range(20)]
        yield {"row": "ekiben, warm", "median_s": round(statistics.median(times), 4), "runs": len(times)}
        yield _zygotes(platform)
    finally:
        platform.stop()


def _compare(contest: Contest, platform: Platform, weights: Path, folder: Path) -> Iterator[dict[str, Any]]:
    path = weights_of(contest.model, weights)
    first = _seconds(contest.ask, platform, folder)
    bare: list[tuple[float, float]] = []
    ours: list[float] = []
    stages: list[dict[str, float]] = []
    for _ in range(RUNS):
        bare.append(_bare(contest.bare, path, folder))
        platform.post(f"/api/models/{contest.model}/stop")
        ours.append(_seconds(contest.ask, platform, folder))
        (replica,) = platform.model(contest.model)["replicas"]
        stages.append(replica["stages_s"])
    platform.post(f"/api/models/{contest.model}/stop")
    fresh, imported = (statistics.median(column) for column in zip(*bare, strict=True))
    forked = statistics.median(ours)
    yield {"row": f"{contest.model}: bare, fresh process", "median_s": round(fresh, 3), "runs": RUNS}
    yield {"row": f"{contest.model}: bare, imported process", "median_s": round(imported, 3), "runs": RUNS}
    yield {
        "row": f"{contest.model}: ekiben",
        "median_s": round(forked, 3),
        "ratio_to_fresh": round(forked / fresh, 2),
        "ratio_to_imported": round(forked / imported, 2),
        "first_of_the_engine_s": round(first, 3),
        "stages_s": {name: round(statistics.median(s[name] for s in stages), 3) for name in stages[0]},
        "runs": RUNS,
    }


def _crowd(platform: Platform, folder: Path) -> dict[str, Any]:
    """Several requests to a cold model at once, beside a single one."""
    alone: list[float] = []
    last: list[float] = []
    with ThreadPoolExecutor(CROWD) as pool:
        for _ in range(RUNS):
            platform.post(f"/api/models/{MODEL}/stop")
            alone.append(_seconds(_chat, platform, folder))
            platform.post(f"/api/models/{MODEL}/stop")
            last.append(max(pool.map(lambda _: _seconds(_chat, platform, folder), range(CROWD))))
    return {
        "row": f"ekiben, {CROWD} cold at once, the last",
        "median_s": round(statistics.median(last), 3),
        "ratio_to_single": round(statistics.median(last) / statistics.median(alone), 2),
        "runs": RUNS,
    }


def _zygotes(platform: Platform) -> dict[str, Any]:
    zygotes = platform.get("/api/replicas")["zygotes"]
    megabytes = {z["engine"]: round(z["memory_bytes"] / 10**6) for z in zygotes}
    return {"row": "zygotes, resident MB", **megabytes}


def _bare(script: str, weights: Path, folder: Path) -> tuple[float, float]:
    """Seconds to the first answer: from the start of the process, and from the end of its imports."""
    (folder / "bare.sock").unlink(missing_ok=True)
    started = time.perf_counter()
    command = [sys.executable, "-c", CLOCK + script, str(weights), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        times = []
        for word in (b"imported", b"answered"):
            while word not in (line := child.stdout.readline()):
                assert line, "the bare process ended"
            times.append(time.perf_counter() - started)
        child.kill()
    imported, answered = times
    return answered, answered - imported


def _seconds(ask: Callable[[Platform, Path], None], platform: Platform, folder: Path) -> float:
    started = time.perf_counter()
    ask(platform, folder)
    return time.perf_counter() - started


def _chat(platform: Platform, folder: Path) -> None:
    """Returns at the first event with content."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 1,
        "stream": True,
    }
    for line in _post(platform, "/v1/chat/completions", json.dumps(body).encode(), "application/json"):
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            return
    raise AssertionError("the stream had no content")


def _embed(platform: Platform, folder: Path) -> None:
    body = {"model": "all-minilm-l6-v2", "input": PROMPT}
    list(_post(platform, "/v1/embeddings", json.dumps(body).encode(), "application/json"))


def _transcribe(platform: Platform, folder: Path) -> None:
    fields = {"model": b"whisper-base", "language": b"en", 'file"; filename="tone.wav': b""}
    fields['file"; filename="tone.wav'] = (folder / "tone.wav").read_bytes()
    parts = [
        b'--cut\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in fields.items()
    ]
    body = b"".join(parts) + b"--cut--\r\n"
    list(_post(platform, "/v1/audio/transcriptions", body, "multipart/form-data; boundary=cut"))


def _speak(platform: Platform, folder: Path) -> None:
    body = {"model": "piper-en-us-joe", "voice": "default", "input": PROMPT, "response_format": "wav"}
    list(_post(platform, "/v1/audio/speech", json.dumps(body).encode(), "application/json"))


def _post(platform: Platform, path: str, body: bytes, kind: str) -> Iterator[bytes]:
    """The lines of the answer, as they come."""
    request = urllib.request.Request(platform.url + path, body, {"content-type": kind})
    with urllib.request.urlopen(request, timeout=120) as response:
        yield from response


def _write_tone(path: Path) -> None:
    """Two seconds of a square wave: a recording that says nothing."""
    rate = 16000
    samples = b"".join((b"\x00\x08" if n // 20 % 2 else b"\x00\xf8") for n in range(2 * rate))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    path.write_bytes(buffer.getvalue())


CONTESTS: Final = (
    Contest(MODEL, BARE_LLAMA, _chat),
    Contest("all-minilm-l6-v2", BARE_EMBEDDING, _embed),
    Contest("whisper-base", BARE_WHISPER, _transcribe),
    Contest("piper-en-us-joe", BARE_PIPER, _speak),
)
