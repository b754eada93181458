"""Files that are not audio, lie about it, or are made to exhaust whoever decodes them (A, H3, H4)."""

from __future__ import annotations

import io
import resource
import struct
import threading
from collections.abc import Callable
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ekiben.contract.audio import SAMPLE_RATE_HZ, decode
from ekiben.errors import InvalidRequest


def wav(
    *, rate: int = 16_000, channels: int = 1, data: bytes = bytes(32_000), tag: int = 1, bits: int = 16
) -> bytes:
    """A header of one's choice before the data; the lengths it gives are lies of 4 GB."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block % 2**32, block, bits)
    return b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + form + b"data\xff\xff\xff\xff" + data


def encoded(
    container: str, codec: str, *, rate: int = 44_100, seconds: float = 2.0, video: bool = False
) -> bytes:
    """A tone, optionally beside a picture that moves."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout="mono")
        film: Any = output.add_stream("mpeg4", rate=10) if video else None
        if film:
            film.width = film.height = 64
            film.pix_fmt = "yuv420p"
        tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate) * 20_000
        left, position = seconds, 0
        while left > 0:
            part = tone[: int(min(left, 1.0) * rate)].astype(np.int16)[None]
            frame: Any = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
            output.mux(stream.encode(frame))
            left, position = left - 1, position + part.shape[1]
        output.mux(stream.encode(None))
        if film:
            for number in range(20):
                picture: Any = av.VideoFrame(64, 64, "yuv420p")
                picture.pts = number
                output.mux(film.encode(picture))
            output.mux(film.encode(None))
    return file.getvalue()


def decoded_s(data: bytes, tmp_path: Path, *, max_duration_s: float = 60) -> float:
    path = tmp_path / "upload"
    path.write_bytes(data)
    return sum(len(block) for block in decode(path, max_duration_s=max_duration_s)) / SAMPLE_RATE_HZ


BROKEN: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"This is no audio at all.\n" * 100,
    "noise": lambda: np.random.default_rng(1).bytes(100_000),
    "html": lambda: b"<!doctype html><html><body>502 Bad Gateway</body></html>",
    "picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "header only": lambda: wav(data=b""),
    "too short": lambda: wav(data=bytes(1000)),
    "mp3 cut to nothing": lambda: encoded("mp3", "libmp3lame")[:100],
    "m4a without its index": lambda: encoded("mp4", "aac")[:4000],
    "768 kHz": lambda: wav(rate=768_000),
    "4 GHz": lambda: wav(rate=2**32 - 1),
    "0 Hz": lambda: wav(rate=0),
    "255 channels": lambda: wav(channels=255, data=bytes(51_000)),
    "0 channels": lambda: wav(channels=0),
    "not a number": lambda: wav(tag=3, bits=32, data=np.full(16_000, np.nan, np.float32).tobytes()),
    "infinite": lambda: wav(tag=3, bits=32, data=np.full(16_000, np.inf, np.float32).tobytes()),
    "film without sound": lambda: _silent_film(),
    "filter graph": lambda: b"sine=frequency=1000:duration=5",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded_s(BROKEN[name](), tmp_path)
    assert caught.value.param == "file"


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("mp3", "libmp3lame"), ("adts", "aac"), ("flac", "flac"), ("ogg", "libopus"), ("mp4", "aac")),
        *(("webm", "libopus"), ("mov", "pcm_s16le"), ("aiff", "pcm_s16be"), ("mpeg", "mp2")),
    ],
)
def test_what_clients_send_is_decoded(container: str, codec: str, tmp_path: Path) -> None:
    data = encoded(container, codec, rate=48_000)
    assert decoded_s(data, tmp_path) == pytest.approx(2.0, abs=0.1)


def test_the_sound_of_a_film_is_taken(tmp_path: Path) -> None:
    assert decoded_s(encoded("mp4", "aac", video=True), tmp_path) == pytest.approx(2.0, abs=0.1)


def test_a_header_that_lies_about_its_length_does_no_harm(tmp_path: Path) -> None:
    assert decoded_s(wav(), tmp_path) == pytest.approx(1.0)


def test_a_cut_mp3_gives_what_is_left_of_it(tmp_path: Path) -> None:
    data = encoded("mp3", "libmp3lame")
    assert 0.5 < decoded_s(data[: len(data) // 2], tmp_path) < 1.5


def test_hours_in_few_bytes_end_at_the_limit(tmp_path: Path) -> None:
    """A file that says how long it is, and one that does not, in memory that does not grow with it."""
    for data in (encoded("flac", "flac", rate=8000, seconds=3600), encoded("adts", "aac", seconds=1200)):
        path = tmp_path / "upload"
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        heard = 0
        with pytest.raises(InvalidRequest, match="longer than the limit of 600 seconds"):
            for block in decode(path, max_duration_s=600):
                heard += len(block)
        assert heard <= 600 * SAMPLE_RATE_HZ
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_recordings_come_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(encoded("flac", "flac", seconds=200))
    blocks = list(decode(path, max_duration_s=600))
    assert len(blocks) > 5 and max(map(len, blocks)) < 60 * SAMPLE_RATE_HZ


def test_playlists_open_nothing(tmp_path: Path, spoken: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another file of this machine nor an address."""
    asked: list[str] = []

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(spoken)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    secret = tmp_path / "secret.wav"
    secret.write_bytes(spoken)
    monkeypatch.chdir(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/x.wav"
        for url in (address, "secret.wav", str(secret), f"file://{secret}"):
            for playlist in (
                f"ffconcat version 1.0\nfile '{url}'\n",
                f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
                f'<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
                f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\na={url}\n",
            ):
                with pytest.raises(InvalidRequest):
                    decoded_s(playlist.encode(), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


async def test_the_model_answers_after_every_broken_file(
    whisper: Any, spoken: bytes, sentence: str, tmp_path: Path
) -> None:
    descriptors = open_descriptors()
    for make in (lambda: b"", *BROKEN.values()):
        reply = await whisper.transcribe(make())
        assert (reply.status, reply.error["param"]) == (400, "file")
    too_long = await whisper.transcribe(encoded("flac", "flac", rate=8000, seconds=700))
    assert "600 seconds" in too_long.error["message"]
    assert open_descriptors() <= descriptors
    reply = await whisper.transcribe(spoken, response_format="text")
    assert reply.body.decode().strip().lower().rstrip(".") == sentence.lower().rstrip(".")


@pytest.mark.parametrize("options", [{}, {"vad_filter": True}])
async def test_silence_has_no_words(load_model: Callable[..., Any], options: dict[str, Any]) -> None:
    whisper = load_model("whisper-base", beam_size=1, **options)
    reply = await whisper.transcribe(wav(data=bytes(16_000 * 2 * 5)), response_format="verbose_json")
    assert reply.status == 200
    assert reply.json()["duration"] == 5.0
    if options:
        assert reply.json()["text"] == ""


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _silent_film() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        film: Any = output.add_stream("mpeg4", rate=10)
        film.width = film.height = 64
        film.pix_fmt = "yuv420p"
        for number in range(20):
            picture: Any = av.VideoFrame(64, 64, "yuv420p")
            picture.pts = number
            output.mux(film.encode(picture))
        output.mux(film.encode(None))
    return file.getvalue()
