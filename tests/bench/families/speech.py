"""How long a listener waits: the first bytes of a speech of ten sentences, beside all of it."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from tests.bench.cold.ekiben import platform
from tests.bench.cold.measure import Bench, Row, verdict

MODEL: Final = "piper-en-us-joe"
SENTENCES: Final = (
    "The first train of the morning leaves at six.",
    "It stops at every station on the coast.",
    "Lunch boxes are sold on the platform.",
    "Each one is packed by hand before sunrise.",
    "Rice, fish and pickles lie side by side.",
    "Some travellers collect the wooden lids.",
    "The conductor walks through the carriage twice.",
    "Rain has been falling since last night.",
    "Please keep your tickets until the end.",
    "We hope that you enjoy the journey.",
)
FORMATS: Final = ("mp3", "opus", "wav", "pcm")
MOST: Final = 0.2


def run(bench: Bench) -> Iterator[Row]:
    with platform(bench, "speech") as running:
        _speak(running.url, "mp3")
        for name in FORMATS:
            shots = [_speak(running.url, name) for _ in range(bench.rounds)]
            first_s = statistics.median(first for first, _ in shots)
            whole_s = statistics.median(whole for _, whole in shots)
            yield {"row": f"{name}: first bytes", "seconds": round(first_s, 3)}
            yield {"row": f"{name}: all of it", "seconds": round(whole_s, 3)}
            ratio = statistics.median(first / whole for first, whole in shots)
            yield verdict(f"{name}: first bytes / all of it", round(ratio, 3), at_most=MOST)


def _speak(url: str, audio_format: str) -> tuple[float, float]:
    """Until the first bytes of audio, and until the last."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
    body = {
        "model": MODEL,
        "voice": "default",
        "input": " ".join(SENTENCES),
        "response_format": audio_format,
    }
    asked = time.perf_counter()
    connection.request("POST", "/v1/audio/speech", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    assert answer.read1(64)
    first_s = time.perf_counter() - asked
    while answer.read1(65536):
        pass
    whole_s = time.perf_counter() - asked
    connection.close()
    return first_s, whole_s
