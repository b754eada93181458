"""How recordings are cut into windows, and how a window's text is laid out in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from ekiben.contract.audio import SAMPLE_RATE_HZ, WINDOW_S, Window, windows
from ekiben.contract.audio.windows import SEARCH_S, STRETCH_S
from ekiben_faster_whisper.segments import split

FIRST = 1000
"""The token of 0 seconds."""


def noise(seconds: float) -> Any:
    return np.random.default_rng(0).integers(-9000, 9000, int(seconds * SAMPLE_RATE_HZ), dtype=np.int16)


def blocks(samples: Any, *, seconds: float = 7) -> Iterator[Any]:
    step = int(seconds * SAMPLE_RATE_HZ)
    for start in range(0, len(samples), step):
        yield samples[start : start + step]


def loud(samples: Any) -> list[tuple[int, int]]:
    """Stretches of samples that are not zero, without the seconds of silence between them."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (samples != 0).astype(np.int8), [0]))))
    found: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if found and start - found[-1][1] < SAMPLE_RATE_HZ:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    longest = WINDOW_S * SAMPLE_RATE_HZ
    return [(at, min(at + longest, end)) for start, end in found for at in range(start, end, longest)]


def spans(found: Sequence[Window]) -> list[tuple[int, int]]:
    return [span for window in found for span in window.spans]


def test_what_fits_is_one_window() -> None:
    samples = noise(WINDOW_S)
    (window,) = windows(blocks(samples))
    assert window.duration_s == WINDOW_S and np.array_equal(window.samples, samples)


def test_the_cut_is_made_where_it_is_quiet() -> None:
    samples = noise(WINDOW_S * 1.8)
    quiet_s = WINDOW_S - SEARCH_S / 2
    samples[int(quiet_s * SAMPLE_RATE_HZ) : int((quiet_s + 0.5) * SAMPLE_RATE_HZ)] //= 100
    first, second = windows(blocks(samples))
    assert quiet_s < first.duration_s < quiet_s + 0.5
    assert first.duration_s + second.duration_s == pytest.approx(WINDOW_S * 1.8)
    assert second.start_s == first.duration_s


@pytest.mark.parametrize("samples", [np.zeros(150 * SAMPLE_RATE_HZ, np.int16), noise(95.01)])
def test_every_sample_is_in_one_window(samples: Any) -> None:
    found = list(windows(blocks(samples)))
    assert np.array_equal(np.concatenate([window.samples for window in found]), samples)
    lengths = [window.duration_s for window in found]
    assert max(lengths) <= WINDOW_S and min(lengths[:-1]) >= WINDOW_S - SEARCH_S
    assert found[-1].heard == len(samples)


def test_windows_are_given_out_before_the_recording_has_ended() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield noise(5)

    found = windows(endless())
    assert [next(found).duration_s <= WINDOW_S for _ in range(3)] == [True] * 3


def test_speech_is_gathered_from_a_long_recording() -> None:
    """None is lost or heard twice, wherever the stretches end in which it is looked for."""
    samples = np.zeros(8 * STRETCH_S * SAMPLE_RATE_HZ, np.int16)
    said: list[tuple[int, int]] = []
    generator = np.random.default_rng(2)
    at = 0
    while (at := at + int(generator.uniform(2, 40) * SAMPLE_RATE_HZ)) < len(samples):
        end = min(at + int(generator.uniform(0.5, 28) * SAMPLE_RATE_HZ), len(samples))
        samples[at:end] = 1 + at % 1000
        said.append((at, end))
        at = end
    found = list(windows(blocks(samples), speech=loud))
    assert spans(found) == said
    for window in found:
        assert window.duration_s <= WINDOW_S
        parts = [samples[start:end] for start, end in window.spans]
        assert np.array_equal(window.samples, np.concatenate(parts))
    assert found[-1].heard == len(samples)


def test_silence_is_one_window_without_a_sound() -> None:
    (window,) = windows(blocks(np.zeros(5 * SAMPLE_RATE_HZ, np.int16)), speech=loud)
    assert (window.duration_s, window.heard) == (0, 5 * SAMPLE_RATE_HZ)


def test_times_are_those_of_the_recording() -> None:
    second = SAMPLE_RATE_HZ
    window = Window(
        samples=noise(5), spans=[(10 * second, 12 * second), (20 * second, 23 * second)], heard=30 * second
    )
    assert [window.place(time) for time in (-0.1, 0.5, 2.0, 4.0, 9.0)] == [10, 10.5, 20, 22, 23]
    assert window.place(2.0, is_end=True) == 12, "an end stays with what it ends"


@pytest.mark.parametrize(
    ("tokens", "found", "rest_s"),
    [
        ([0, "a", 100], [(0, 2.0)], None),
        (["a"], [(0, 10.0)], None),
        ([20, "a", 100], [(0, 2.0)], None),
        ([0, "a", 100, 100, "b", 300], [(0, 2.0), (2.0, 6.0)], None),
        ([0, "a", 100, 110, "b", 300, 300], [(0, 2.0), (2.2, 6.0)], 6.0),
        ([0, "a", 100, 110, "b"], [(0, 2.0)], 2.0),
        ([0, "a", 480, 490, "b"], [(0, 9.6), (9.8, 10.0)], None),
        ([0, "a", 0, 0, "b"], [(0, 10.0), (0, 10.0)], None),
        ([], [], None),
        ([0, 100], [], None),
    ],
)
def test_segments_lie_between_timestamps(
    tokens: list[Any], found: list[tuple[float, float]], rest_s: float | None
) -> None:
    """Of a window of ten seconds; what has no end is left to be heard again."""
    ids = [FIRST + token if isinstance(token, int) else 7 for token in tokens]
    pieces = split(ids, first_timestamp=FIRST, duration_s=10.0)
    assert [(piece["start"], piece["end"]) for piece in pieces.found] == found
    assert pieces.rest_s == rest_s
