"""How long recordings are cut, and how work that nobody waits for is ended."""

from __future__ import annotations

from threading import Event
from typing import Any

import numpy as np
import pytest

from ekiben_faster_whisper.decode import SAMPLE_RATE_HZ
from ekiben_faster_whisper.recognizer import PIECE_S, SEARCH_S, Interruptible, Withdrawn, piece_end


def noise(seconds: float) -> Any:
    return np.random.default_rng(0).integers(-9000, 9000, int(seconds * SAMPLE_RATE_HZ), dtype=np.int16)


def pieces(samples: Any) -> list[float]:
    """Where the pieces end, in seconds."""
    ends = [0]
    while ends[-1] < len(samples):
        ends.append(piece_end(samples, ends[-1]))
    return [end / SAMPLE_RATE_HZ for end in ends[1:]]


def test_what_fits_is_not_cut() -> None:
    assert pieces(noise(PIECE_S)) == [PIECE_S]


def test_the_cut_is_made_where_it_is_quiet() -> None:
    samples = noise(PIECE_S * 2)
    quiet_s = PIECE_S - SEARCH_S / 2
    samples[int(quiet_s * SAMPLE_RATE_HZ) : int((quiet_s + 0.5) * SAMPLE_RATE_HZ)] //= 100
    ends = pieces(samples)
    assert quiet_s < ends[0] < quiet_s + 0.5
    assert ends[-1] == PIECE_S * 2


def test_silence_and_noise_end_too() -> None:
    for samples in (np.zeros(PIECE_S * 5 * SAMPLE_RATE_HZ, np.int16), noise(PIECE_S * 3 + 0.01)):
        ends = pieces(samples)
        assert ends[-1] == len(samples) / SAMPLE_RATE_HZ
        lengths = np.diff([0.0, *ends])
        assert max(lengths) <= PIECE_S and min(lengths[:-1]) >= PIECE_S - SEARCH_S


def test_the_model_is_not_asked_again_for_a_withdrawn_request() -> None:
    class Model:
        is_multilingual = True

        def encode(self, features: str) -> str:
            return features.upper()

    gate = Interruptible(Model())
    assert gate.is_multilingual
    assert gate.encode("a") == "A"
    gate.withdrawn.set()
    with pytest.raises(Withdrawn):
        gate.encode("a")
    gate.withdrawn = Event()
    assert gate.encode("b") == "B"
