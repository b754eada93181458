"""What is encoded is decoded again, as long and as loud, from bytes that came piece by piece."""

from __future__ import annotations

import io
import sys
import wave

import av
import numpy as np
import pytest

from ekiben.errors import EngineNotInstalled
from ekiben.runtime.audio.formats import FORMATS, PCM_RATE_HZ, encoder, slices, wav_header

SECONDS = 3


def tone(rate_hz: int) -> bytes:
    wave_form = np.sin(2 * np.pi * 440 * np.arange(rate_hz * SECONDS) / rate_hz) * 16_000
    return wave_form.astype(np.int16).tobytes()


def encoded(name: str, rate_hz: int) -> list[bytes]:
    target = encoder(name, rate_hz=rate_hz)
    pieces = [target.encode(piece) for piece in slices(tone(rate_hz), rate_hz=rate_hz)]
    return [*pieces, target.finish()]


def decoded(data: bytes) -> tuple[float, float]:
    """Seconds, and the frequency that is heard most."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16_000)
    samples = np.concatenate([f.to_ndarray()[0] for frame in frames for f in resampler.resample(frame)])
    loudest = int(np.argmax(np.abs(np.fft.rfft(samples))))
    return sum(f.samples for f in frames) / frames[0].sample_rate, loudest * 16_000 / len(samples)


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"pcm"}))
def test_round_trip(name: str, rate_hz: int) -> None:
    seconds, frequency = decoded(b"".join(encoded(name, rate_hz)))
    assert seconds == pytest.approx(SECONDS, abs=0.12)
    assert frequency == pytest.approx(440, abs=2)


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 24_000, 48_000])
def test_pcm_has_the_rate_that_clients_expect(rate_hz: int) -> None:
    samples = np.frombuffer(b"".join(encoded("pcm", rate_hz)), dtype="<i2")
    assert len(samples) == pytest.approx(SECONDS * PCM_RATE_HZ, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(samples))) / SECONDS == pytest.approx(440, abs=2)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_bytes_come_with_the_first_samples_and_go_on(name: str) -> None:
    pieces = encoded(name, 22_050)
    assert pieces[0]
    assert sum(1 for piece in pieces if piece) >= len(pieces) - 2


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_samples_at_all(name: str) -> None:
    target = encoder(name, rate_hz=22_050)
    assert target.encode(b"") in (b"", wav_header(22_050, data_bytes=None))
    target.finish()


def test_wav_headers() -> None:
    with wave.open(io.BytesIO(wav_header(22_050, data_bytes=8) + bytes(8))) as wav:
        assert wav.getparams()[:4] == (1, 2, 22_050, 4)
    endless = wav_header(22_050, data_bytes=None)
    assert endless[4:8] == endless[40:44] == b"\xff\xff\xff\xff"


def test_without_the_codec_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(EngineNotInstalled, match=r"ekiben\[piper\]"):
        encoder("mp3", rate_hz=22_050)
