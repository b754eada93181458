"""Twenty recordings from eight clients: the platform, and faster-whisper called directly.

The library is handed all recordings at once and hears them in the way that suits it best; of the platform
each client asks for one after the other.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from openai import AsyncOpenAI, OpenAI

from tests.bench.cold.ekiben import platform
from tests.bench.cold.measure import Bench, Row, say, verdict
from tests.bench.families import speech
from tests.bench.home import weights_of

MODEL: Final = "whisper-base"
CLIENTS: Final = 8
SPEEDS: Final = (0.9, 1.1)
"""Of each sentence, so that no two recordings are alike."""
AT_MOST: Final = round(1 / 0.95, 3)

Hear: TypeAlias = Callable[[], dict[str, float]]


def run(bench: Bench) -> Iterator[Row]:
    with platform(bench, "transcription") as running:
        clips = record(running.url, bench.folder)
        with library(weights_of(MODEL, bench.weights), clips) as hear:
            ours: list[float] = []
            theirs: list[dict[str, float]] = []
            for round_number in range(bench.rounds + 1):
                our_s, their_s = asyncio.run(ask_all(running.url, clips)), hear()
                say(f"  platform {our_s:.1f} s; library { {way: round(s, 1) for way, s in their_s.items()} }")
                if round_number:  # the first one warms up
                    ours.append(our_s)
                    theirs.append(their_s)
    yield {"row": f"platform, {CLIENTS} clients", "seconds": round(statistics.median(ours), 2)}
    for way in theirs[0]:
        seconds = statistics.median(each[way] for each in theirs)
        yield {"row": f"library, {way}", "seconds": round(seconds, 2)}
    best = min(theirs[0], key=lambda way: statistics.median(each[way] for each in theirs))
    ratio = statistics.median(mine / each[best] for mine, each in zip(ours, theirs, strict=True))
    yield verdict(f"platform / library, {best}", round(ratio, 3), at_most=AT_MOST)


def record(url: str, folder: Path) -> list[Path]:
    """The sentences of the bench of speech, each at two speeds."""
    clips = []
    with OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
        for number, sentence in enumerate(speech.SENTENCES):
            for speed in SPEEDS:
                answer = client.audio.speech.create(
                    model=speech.MODEL, voice="default", input=sentence, speed=speed, response_format="wav"
                )
                clip = folder / f"{number}-{speed}.wav"
                clip.write_bytes(answer.content)
                clips.append(clip)
    return clips


async def ask_all(url: str, clips: Sequence[Path]) -> float:
    """Seconds until the last of them is heard."""
    left = iter(clips)

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as sdk:

        async def client() -> None:
            for clip in left:
                heard = await sdk.audio.transcriptions.create(model=MODEL, file=clip, language="en")
                assert heard.text.strip(), clip

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(client())
        return time.perf_counter() - started


@contextmanager
def library(folder: Path, clips: Sequence[Path]) -> Iterator[Hear]:
    """Seconds of each way, whenever it is called; its process does nothing meanwhile."""
    module = "tests.bench.families.transcription_library"
    command = [sys.executable, "-m", module, str(folder), *map(str, clips)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, told = process.stdin, process.stdout

        def hear() -> dict[str, float]:
            asked.write("\n")
            asked.flush()
            taken_s: dict[str, float] = json.loads(told.readline())
            return taken_s

        try:
            yield hear
        finally:
            process.kill()
