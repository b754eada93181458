"""What is asked of each model over HTTP: the shortest request that shows that it works."""

from __future__ import annotations

import io
import json
import urllib.request
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from PIL import Image, ImageDraw, ImageFont

PROMPT: Final = "Name three fruits."
ASK_S: Final = 120.0

Ask: TypeAlias = Callable[[str], None]
"""Asks the server at this URL; returns with the first answer. Raises OSError when it is refused."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Returns at the first event with content."""

    model: str
    prompt: str = PROMPT
    headers: Mapping[str, str] | None = None

    def __call__(self, url: str) -> None:
        next(self.pieces(url, max_tokens=1))

    def pieces(self, url: str, *, max_tokens: int) -> Iterator[str]:
        """The pieces of the answer, as they come; at least one."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": max_tokens,
            "stream": True,
        }
        lines = _post(url + "/v1/chat/completions", json.dumps(body).encode(), headers=self.headers)
        came = False
        for line in lines:
            if piece := _content(line):
                came = True
                yield piece
        if not came:
            raise OSError("the stream had no content")


def embed(url: str) -> None:
    body = {"model": "all-minilm-l6-v2", "input": PROMPT}
    list(_post(url + "/v1/embeddings", json.dumps(body).encode()))


def transcribe(url: str, *, model: str = "whisper-base") -> None:
    parts = [
        _part('name="model"', model.encode()),
        _part('name="language"', b"en"),
        _part('name="file"; filename="tone.wav"', tone()),
    ]
    kind = {"content-type": "multipart/form-data; boundary=cut"}
    list(_post(url + "/v1/audio/transcriptions", b"".join(parts) + b"--cut--\r\n", headers=kind))


def speak(url: str) -> None:
    body = {"model": "piper-en-us-joe", "voice": "default", "input": PROMPT, "response_format": "wav"}
    list(_post(url + "/v1/audio/speech", json.dumps(body).encode()))


def read(url: str) -> None:
    parts = [_part('name="model"', b"pp-ocr-v6"), _part('name="image"; filename="sign.png"', sign())]
    kind = {"content-type": "multipart/form-data; boundary=cut"}
    list(_post(url + "/v1/images/ocr", b"".join(parts) + b"--cut--\r\n", headers=kind))


def draw(url: str) -> None:
    body = {
        "model": "digits-diffusion",
        "prompt": "a handwritten seven",
        "size": "32x32",
        "steps": 2,
        "response_format": "b64_json",
    }
    list(_post(url + "/v1/images/generations", json.dumps(body).encode()))


def sign() -> bytes:
    """Two words on white."""
    picture = Image.new("RGB", (480, 120), "white")
    ImageDraw.Draw(picture).text((20, 30), "PLATFORM NINE", fill="black", font=ImageFont.load_default(48))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def tone() -> bytes:
    """Two seconds of a square wave: a recording that says nothing."""
    rate = 16000
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(b"\x00\x08" if n // 20 % 2 else b"\x00\xf8" for n in range(2 * rate)))
    return buffer.getvalue()


def call(method: str, url: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON of an answer. Raises OSError for any status that is an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"content-type": "application/json", **(headers or {})}, method=method
    )
    with urllib.request.urlopen(request, timeout=ASK_S) as response:
        content = response.read()
    return json.loads(content) if content else None


def _content(line: bytes) -> str | None:
    if not line.startswith(b"data: {"):
        return None
    choices = json.loads(line[len(b"data: ") :])["choices"]
    content: str | None = choices[0]["delta"].get("content") if choices else None
    return content


def _part(disposition: str, value: bytes) -> bytes:
    return b"--cut\r\ncontent-disposition: form-data; %s\r\n\r\n%s\r\n" % (disposition.encode(), value)


def _post(url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> Iterator[bytes]:
    """The lines of the answer, as they come."""
    request = urllib.request.Request(url, body, {"content-type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=ASK_S) as response:
        yield from response
