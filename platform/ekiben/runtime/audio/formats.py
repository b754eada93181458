"""Speech into the formats of `/v1/audio/speech`, as it is made: 16-bit mono samples in, bytes out.

Encoding costs a few milliseconds for a second of speech; what comes in larger pieces is cut, so that a
caller on an event loop can let others run in between.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol

from ekiben.errors import EngineNotInstalled

if TYPE_CHECKING:
    from av import AudioFrame

PCM_RATE_HZ: Final = 24_000
"""OpenAI's `pcm` is 24 kHz, 16-bit, little-endian, mono, without a header."""
SLICE_S: Final = 0.25
_SAMPLE_BYTES: Final = 2
_UNKNOWN: Final = 0xFFFFFFFF


class Encoder(Protocol):
    """A stream of samples on its way into one format."""

    def encode(self, samples: bytes) -> bytes:
        """What can be sent by now; may be empty."""

    def finish(self) -> bytes:
        """The rest. The encoder is closed then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """How HTTP calls a format, and how FFmpeg does."""

    content_type: str
    container: str = ""
    codec: str = ""
    samples: str = "s16"
    rates_hz: tuple[int, ...] = ()
    """What is made of it; the next higher one of the engine's rate is taken. Empty: any."""
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    """Of the container."""


_COMMON_RATES_HZ: Final = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

FORMATS: Final = {
    "mp3": AudioFormat(
        content_type="audio/mpeg",
        container="mp3",
        codec="libmp3lame",
        samples="s16p",
        rates_hz=_COMMON_RATES_HZ,
        bit_rate=64_000,
        # A summary at the start of the file, which could only be written at its end.
        options={"write_xing": "0"},
    ),
    "opus": AudioFormat(
        content_type="audio/ogg",
        container="ogg",
        codec="libopus",
        rates_hz=(24_000, 48_000),
        bit_rate=32_000,
        options={"page_duration": "200000"},
    ),
    "aac": AudioFormat(
        content_type="audio/aac",
        container="adts",
        codec="aac",
        samples="fltp",
        rates_hz=_COMMON_RATES_HZ,
        bit_rate=64_000,
    ),
    "flac": AudioFormat(content_type="audio/flac", container="flac", codec="flac"),
    "wav": AudioFormat(content_type="audio/wav"),
    "pcm": AudioFormat(content_type="audio/pcm"),
}


def encoder(name: str, *, rate_hz: int) -> Encoder:
    """For one of `FORMATS` and the engine's sample rate."""
    if name == "wav":
        return _Wav(rate_hz)
    if name == "pcm":
        return _Pcm(rate_hz)
    return _Encoded(FORMATS[name], rate_hz)


def slices(samples: bytes, *, rate_hz: int) -> Iterator[bytes]:
    """Cut into pieces of `SLICE_S`."""
    size = int(rate_hz * SLICE_S) * _SAMPLE_BYTES
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def wav_header(rate_hz: int, *, data_bytes: int | None) -> bytes:
    """Of 16-bit mono; players read on to the end of the stream when the length is not known."""
    riff_bytes, data_bytes = (_UNKNOWN, _UNKNOWN) if data_bytes is None else (data_bytes + 36, data_bytes)
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, rate_hz * _SAMPLE_BYTES, _SAMPLE_BYTES, 16)
    return b"RIFF%sWAVEfmt %sdata%s" % (struct.pack("<I", riff_bytes), form, struct.pack("<I", data_bytes))


class _Wav:
    def __init__(self, rate_hz: int) -> None:
        self._header = wav_header(rate_hz, data_bytes=None)

    def encode(self, samples: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + samples

    def finish(self) -> bytes:
        return self.encode(b"")


class _Pcm:
    def __init__(self, rate_hz: int) -> None:
        self._frames = _Frames(rate_hz)
        self._resampler = _av().AudioResampler(format="s16", layout="mono", rate=PCM_RATE_HZ)

    def encode(self, samples: bytes) -> bytes:
        return self._resample(self._frames.next(samples)) if samples else b""

    def finish(self) -> bytes:
        return self._resample(None)

    def _resample(self, frame: AudioFrame | None) -> bytes:
        frames = self._resampler.resample(frame)
        return b"".join(bytes(f.planes[0])[: f.samples * _SAMPLE_BYTES] for f in frames)


class _Encoded:
    """Through FFmpeg's encoder and container, into a buffer that is emptied after each call."""

    def __init__(self, form: AudioFormat, rate_hz: int) -> None:
        self._frames = _Frames(rate_hz)
        self._sink = _Sink()
        options = {"flush_packets": "1"} | form.options
        self._container = _av().open(self._sink, "w", format=form.container, container_options=options)
        rate = next((rate for rate in form.rates_hz if rate >= rate_hz), max(form.rates_hz, default=rate_hz))
        self._stream = self._container.add_stream(form.codec, rate=rate, layout="mono", format=form.samples)
        if form.bit_rate is not None:
            self._stream.bit_rate = form.bit_rate

    def encode(self, samples: bytes) -> bytes:
        if samples:
            self._mux(self._frames.next(samples))
        return self._sink.take()

    def finish(self) -> bytes:
        self._mux(None)
        self._container.close()
        return self._sink.take()

    def _mux(self, frame: AudioFrame | None) -> None:
        """The encoder resamples and cuts into its own frame size by itself; None empties it."""
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


class _Frames:
    """Samples as FFmpeg's frames, each with its place in time."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._position = 0

    def next(self, samples: bytes) -> AudioFrame:
        count = len(samples) // _SAMPLE_BYTES
        frame: AudioFrame = _av().AudioFrame(format="s16", layout="mono", samples=count, align=1)
        frame.planes[0].update(samples)
        frame.sample_rate = self._rate_hz
        frame.time_base = Fraction(1, self._rate_hz)
        frame.pts = self._position
        self._position += count
        return frame


class _Sink:
    """What a container writes to: no file, and nothing to go back in."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _av() -> ModuleType:
    """PyAV comes with the speech engines, not with the platform. Raises EngineNotInstalled."""
    try:
        return importlib.import_module("av")
    except ModuleNotFoundError:
        raise EngineNotInstalled(
            "audio cannot be encoded without the package `av`: run `pip install 'ekiben[piper]'`"
        ) from None
