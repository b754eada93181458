"""Untrusted audio files to 16 kHz mono samples, in bounded memory.

FFmpeg knows hundreds of formats, some of which open further files, run filter graphs or decode pictures.
Only plain audio containers and codecs are let through here, the file is handed over as an open object so
that no name or URL in it can be followed, and the samples are given out as they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ekiben.errors import InvalidRequest

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.int16]

SAMPLE_RATE_HZ: Final = 16_000
"""What Whisper and its like listen to."""
MIN_DURATION_S: Final = 0.1
MAX_SOURCE_RATE_HZ: Final = 192_000
MAX_SOURCE_CHANNELS: Final = 8
MAX_FRAME_SAMPLES: Final = 2**20

CONTAINERS: Final = "aac,aiff,amr,asf,au,caf,flac,matroska,mov,mp3,mp4,mpeg,ogg,w64,wav,webm"
CODECS: Final = (
    "aac,aac_latm,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,flac,gsm,gsm_ms,libopus,libvorbis,"
    "mp2,mp2float,mp3,mp3float,opus,pcm_alaw,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,"
    "pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8,vorbis,wmav1,wmav2"
)
_OPEN_OPTIONS: Final = {
    "format_whitelist": CONTAINERS,
    "codec_whitelist": CODECS,
    "protocol_whitelist": "none",
}
_STEP_SAMPLES: Final = 30 * SAMPLE_RATE_HZ
_STEP_PACKETS: Final = 1000
_DURATIONS_PER_S: Final = 1_000_000


def decode(path: Path, *, max_duration_s: float) -> Iterator[Samples]:
    """The file's first audio stream, 16-bit mono at `SAMPLE_RATE_HZ`, block by block.

    A block is at most about half a minute and may be empty: each is a short step of work, after which a
    caller can stop. Raises InvalidRequest (param `file`) for everything that is not audio of a bearable
    size; at once, if the file says so itself.
    """
    import av
    import numpy as np

    total = 0
    with path.open("rb") as file:
        try:
            with av.open(file, mode="r", metadata_errors="ignore", options=_OPEN_OPTIONS) as container:
                stream = _audio_stream(container)
                _check_claim(container, stream, max_duration_s=max_duration_s)
                for block in _steps(_blocks(container, stream)):
                    total += len(block) // 2
                    _check_duration(total / SAMPLE_RATE_HZ, max_duration_s=max_duration_s)
                    yield np.frombuffer(block, dtype=np.int16)
        except av.FFmpegError:
            raise _refusal("the file is not audio in a format that can be read") from None
    if total < MIN_DURATION_S * SAMPLE_RATE_HZ:
        raise _refusal(f"the file has less than {MIN_DURATION_S:g} seconds of audio", code="audio_too_short")


def _steps(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer and larger pieces."""
    held = bytearray()
    for number, block in enumerate(blocks, start=1):
        held += block
        if len(held) >= 2 * _STEP_SAMPLES or number % _STEP_PACKETS == 0:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _check_claim(
    container: av.container.InputContainer, stream: av.AudioStream, *, max_duration_s: float
) -> None:
    """By the file's own account, or by its bytes: a wav file that was streamed cannot know its length."""
    if stream.codec_context.name.startswith("pcm_"):
        if stream.codec_context.bit_rate:
            _check_duration(container.size * 8 / stream.codec_context.bit_rate, max_duration_s=max_duration_s)
    elif container.duration is not None:
        _check_duration(container.duration / _DURATIONS_PER_S, max_duration_s=max_duration_s)


def _check_duration(duration_s: float, *, max_duration_s: float) -> None:
    if duration_s > max_duration_s:
        raise _refusal(f"the audio is longer than the limit of {max_duration_s:g} seconds")


def _blocks(container: av.container.InputContainer, stream: av.AudioStream) -> Iterator[bytes]:
    """Resampled samples, one block for each packet of the stream, empty ones too."""
    import av

    resampler = _Resampler(check_finite=stream.codec_context.name.startswith("pcm_f"))
    broken = fine = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            broken += 1
            yield b""
            continue
        fine += 1
        yield b"".join(map(resampler.feed, frames))
    yield resampler.flush()
    if broken >= fine:
        raise _refusal("the audio is damaged: most of it cannot be decoded")


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    if not container.streams.audio:
        raise _refusal("the file has no audio in it")
    stream = container.streams.audio[0]
    codec = getattr(stream.codec_context, "name", "unknown")  # absent when FFmpeg has no decoder for it
    if codec not in CODECS.split(","):
        raise _refusal(f"audio of codec {codec!r} is not taken: send wav, mp3, flac, ogg, m4a or webm")
    _check_shape(stream.sample_rate, stream.codec_context.channels)
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_samples": str(MAX_FRAME_SAMPLES)}
    return stream


def _check_shape(rate_hz: int, channels: int) -> None:
    """Few bytes can claim a great many samples; what no recording has is refused."""
    if not 0 < rate_hz <= MAX_SOURCE_RATE_HZ:
        raise _refusal(f"a sample rate of {rate_hz} Hz is not taken: at most {MAX_SOURCE_RATE_HZ}")
    if not 0 < channels <= MAX_SOURCE_CHANNELS:
        raise _refusal(f"{channels} channels are not taken: at most {MAX_SOURCE_CHANNELS}")


class _Resampler:
    """Frames in, 16-bit mono bytes out; starts anew when the stream changes its shape half way."""

    def __init__(self, *, check_finite: bool) -> None:
        self._check_finite = check_finite
        self._shape: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def feed(self, frame: av.AudioFrame) -> bytes:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        before = b""
        if shape != self._shape:
            before = self.flush()
            self._restart(shape, channels=frame.layout.nb_channels)
        if self._check_finite:
            self._require_finite(frame)
        frame.pts = None
        return before + _joined(self._resampler.resample(frame))

    def flush(self) -> bytes:
        """What the filter still holds back."""
        return b"" if self._resampler is None else _joined(self._resampler.resample(None))

    def _restart(self, shape: tuple[str, str, int], *, channels: int) -> None:
        import av

        _check_shape(shape[2], channels)
        self._shape = shape
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)

    def _require_finite(self, frame: av.AudioFrame) -> None:
        import numpy as np

        if not np.isfinite(frame.to_ndarray()).all():
            raise _refusal("the audio has samples that are not numbers")


def _joined(frames: list[av.AudioFrame]) -> bytes:
    return b"".join(frame.to_ndarray().tobytes() for frame in frames)


def _refusal(message: str, *, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(message, param="file", code=code)
