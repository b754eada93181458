"""Recordings in windows of half a minute, each of which a model can hear without the others.

Read block by block and given out as soon as they are whole, so a recording is never in memory in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ekiben.contract.audio.decoding import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from ekiben.contract.audio.decoding import Samples

WINDOW_S: Final = 30
"""What Whisper hears at once."""
SEARCH_S: Final = 10
"""The cut is made at the quietest moment of a window's end."""
STRETCH_S: Final = 120
"""Speech is looked for in so much at once."""

_WINDOW: Final = WINDOW_S * SAMPLE_RATE_HZ
_SEARCH: Final = SEARCH_S * SAMPLE_RATE_HZ
_STRETCH: Final = STRETCH_S * SAMPLE_RATE_HZ
_QUIET_BLOCK: Final = SAMPLE_RATE_HZ // 10

Span: TypeAlias = tuple[int, int]
"""From one sample to before another."""
Speech: TypeAlias = "Callable[[Samples], Sequence[Span]]"
"""Where in the samples somebody speaks, in order; no span longer than `WINDOW_S`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one window has in it, and where in the recording it was."""

    samples: Samples
    """At most `WINDOW_S`; none, where the rest of a recording is silence."""
    spans: Sequence[Span]
    """In the recording; together they are as long as `samples`."""
    heard: int
    """Samples of the recording that had been decoded: with the last window, all of them."""

    @property
    def start_s(self) -> float:
        return (self.spans[0][0] if self.spans else self.heard) / SAMPLE_RATE_HZ

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ

    def place(self, time_s: float, *, is_end: bool = False) -> float:
        """A time in the window as a time in the recording; what lies between two spans ends the first."""
        left = max(time_s, 0.0)
        for start, end in self.spans:
            length_s = (end - start) / SAMPLE_RATE_HZ
            if left < length_s or (is_end and left == length_s):
                return start / SAMPLE_RATE_HZ + left
            left -= length_s
        return self.spans[-1][1] / SAMPLE_RATE_HZ


def windows(blocks: Iterable[Samples], *, speech: Speech | None = None) -> Iterator[Window]:
    """The recording that `blocks` are; with `speech`, without what is none. At least one window."""
    return _everything(blocks) if speech is None else _spoken(blocks, speech)


def _everything(blocks: Iterable[Samples]) -> Iterator[Window]:
    import numpy as np

    held, start = np.empty(0, np.int16), 0
    for block in blocks:
        held = np.concatenate((held, block))
        while len(held) > _WINDOW:
            end = _quiet_end(held)
            yield Window(samples=held[:end], spans=[(start, start + end)], heard=start + len(held))
            held, start = held[end:], start + end
    yield Window(samples=held, spans=[(start, start + len(held))], heard=start + len(held))


def _quiet_end(samples: Samples) -> int:
    """Where to end the window that the samples begin with: the last of the quietest moments near its end."""
    import numpy as np

    search = samples[_WINDOW - _SEARCH : _WINDOW].astype(np.float32)
    loudness = np.square(search).reshape(-1, _QUIET_BLOCK).mean(axis=1)
    quietest = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
    return _WINDOW - _SEARCH + quietest * _QUIET_BLOCK + _QUIET_BLOCK // 2


def _spoken(blocks: Iterable[Samples], speech: Speech) -> Iterator[Window]:
    """What is near the end of a stretch is looked at again together with what follows."""
    import numpy as np

    held, start = np.empty(0, np.int16), 0
    for block in blocks:
        held = np.concatenate((held, block))
        if len(held) < _STRETCH:
            continue
        # Spans are no longer than a window, so what is held again is less than half of the stretch.
        spans = speech(held)
        sure = [span for span in spans if span[1] <= len(held) - _WINDOW]
        for group in _grouped(sure):
            yield _window(held, group, start=start)
        rest = spans[len(sure)][0] if len(spans) > len(sure) else len(held) - _WINDOW
        held, start = held[rest:], start + rest
    groups = list(_grouped(speech(held))) if len(held) else []
    for group in groups or [[]]:
        yield _window(held, group, start=start)


def _window(held: Samples, group: Sequence[Span], *, start: int) -> Window:
    import numpy as np

    return Window(
        samples=np.concatenate([held[:0], *(held[begin:end] for begin, end in group)]),
        spans=[(start + begin, start + end) for begin, end in group],
        heard=start + len(held),
    )


def _grouped(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """As many in a row as fit into a window."""
    group: list[Span] = []
    for begin, end in spans:
        length = sum(e - b for b, e in group)
        if group and length + end - begin > _WINDOW:
            yield group
            group = []
        group.append((begin, end))
    if group:
        yield group
