"""The tokens of a window as segments of the recording: where each begins and ends, and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from whisper.decoding import DecodingResult  # type: ignore[import-untyped]

from ekiben.contract import TranscriptSegment, TranscriptWord
from ekiben.contract.audio import Window

STEP_S: Final = 0.02
"""Between one timestamp token and the next."""
FRAMES_PER_S: Final = 100
"""Of spectrograms. `seek` counts them."""
MIN_REST_S: Final = 1.0
"""Less is not worth to be heard again."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A window from some time on."""

    window: Window
    spectrogram: torch.Tensor
    """Not filled up."""
    offset_s: float = 0.0

    @property
    def frames(self) -> int:
        return int(self.spectrogram.shape[-1])

    @property
    def duration_s(self) -> float:
        return self.frames / FRAMES_PER_S

    def place(self, time_s: float, *, is_end: bool = False) -> float:
        return self.window.place(self.offset_s + time_s, is_end=is_end)

    def after(self, time_s: float) -> Stretch:
        """What is left from there."""
        frames = round(time_s * FRAMES_PER_S)
        return Stretch(self.window, self.spectrogram[..., frames:], self.offset_s + frames / FRAMES_PER_S)


@dataclass(frozen=True, slots=True)
class Pieces:
    """What was said, as dictionaries, since the library adds the words to such."""

    found: list[dict[str, Any]]
    rest_s: float | None
    """From where on the window has to be heard again. None: it was heard to its end."""


def split(tokens: Sequence[int], *, first_timestamp: int, duration_s: float) -> Pieces:
    """Cut where two timestamps meet. Text after the last of them, without an end, was broken off.

    It is left to be heard again, unless too little is left: then it is said to last until the end.
    """
    is_time = [token >= first_timestamp for token in tokens]
    cuts = [place for place in range(1, len(tokens)) if is_time[place] and is_time[place - 1]]
    rest_s = None
    if cuts and not (is_time[-1] and not is_time[-2]):
        place_s = (tokens[cuts[-1] - 1] - first_timestamp) * STEP_S
        if place_s >= STEP_S and duration_s - place_s >= MIN_REST_S:
            rest_s, tokens = place_s, tokens[: cuts[-1]]
    found = []
    before_s = 0.0
    for begin, end in pairwise([0, *(cut for cut in cuts if cut < len(tokens)), len(tokens)]):
        piece = tokens[begin:end]
        times = [(token - first_timestamp) * STEP_S for token in piece if token >= first_timestamp]
        if len(times) == len(piece):
            continue
        # Of a text in one piece the first timestamp is not trusted, as in the library.
        start_s = times[0] if cuts and piece[0] >= first_timestamp else before_s
        before_s = times[-1] if times and times[-1] > start_s else duration_s
        found.append({"seek": 0, "start": start_s, "end": before_s, "tokens": list(piece)})
    return Pieces(found, rest_s)


def segment(
    piece: dict[str, Any], text: str, *, stretch: Stretch, heard: DecodingResult
) -> TranscriptSegment | None:
    """In the times of the recording. None for what has no text, or is said after its end.

    Whatever the library has reckoned becomes a plain number: it gives NumPy's as well.
    """
    start_s, end_s = stretch.place(float(piece["start"])), stretch.place(float(piece["end"]), is_end=True)
    if not text.strip() or end_s <= start_s:
        return None
    return TranscriptSegment(
        text=text,
        start_s=start_s,
        end_s=end_s,
        tokens=piece["tokens"],
        temperature=float(heard.temperature),
        avg_logprob=float(heard.avg_logprob),
        compression_ratio=float(heard.compression_ratio),
        no_speech_prob=float(heard.no_speech_prob),
        seek=round(stretch.place(0.0) * FRAMES_PER_S),
        words=[
            TranscriptWord(
                word=word["word"],
                start_s=stretch.place(float(word["start"])),
                end_s=stretch.place(float(word["end"]), is_end=True),
            )
            for word in piece.get("words", ())
        ],
    )
