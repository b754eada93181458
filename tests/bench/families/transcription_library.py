"""`python -m tests.bench.families.transcription_library FOLDER CLIP…`: faster-whisper called directly.

For every line on standard input all clips are heard once in each way that the library has, and a line of JSON
says how many seconds each way took. The settings are those of the platform's engine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel  # type: ignore[import-untyped]
from faster_whisper.audio import decode_audio  # type: ignore[import-untyped]

THREADS: Final = 2
BEAM: Final = 5
BATCHES: Final = (4, 8, 20)
RATE: Final = 16000


def one_by_one(model: WhisperModel, clips: Sequence[str]) -> None:
    for clip in clips:
        segments, _ = model.transcribe(clip, language="en", beam_size=BEAM)
        list(segments)


def together(model: WhisperModel, clips: Sequence[str], *, batch_size: int) -> None:
    """As one recording whose parts are heard side by side, which is the only way to batch several files."""
    sounds = [decode_audio(clip, sampling_rate=RATE) for clip in clips]
    ends = np.cumsum([len(sound) for sound in sounds]) / RATE
    starts = [0.0, *ends[:-1]]
    segments, _ = BatchedInferencePipeline(model).transcribe(
        np.concatenate(sounds),
        language="en",
        beam_size=BEAM,
        batch_size=batch_size,
        without_timestamps=False,
        clip_timestamps=[
            {"start": float(start), "end": float(end)} for start, end in zip(starts, ends, strict=True)
        ],
    )
    list(segments)


def main(folder: str, clips: Sequence[str]) -> None:
    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=THREADS)
    ways: dict[str, Callable[[], Any]] = {"one by one": partial(one_by_one, model, clips)}
    for batch_size in BATCHES:
        ways[f"{batch_size} together"] = partial(together, model, clips, batch_size=batch_size)
    for _ in sys.stdin:
        taken_s = {}
        for name, hear in ways.items():
            started = time.perf_counter()
            hear()
            taken_s[name] = time.perf_counter() - started
        print(json.dumps(taken_s), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
