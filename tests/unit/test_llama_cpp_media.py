"""Pictures, sounds and templates of the llama_cpp engine, without a model."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from ekiben.contract import InvalidRequest, TextRequest, UnsupportedParameter
from ekiben_llama_cpp.chat import ChatJob
from ekiben_llama_cpp.media import check_picture, check_sound
from ekiben_llama_cpp.messages import MessageReader
from ekiben_llama_cpp.voice import Voice


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", width, height)


def jpeg(width: int, height: int) -> bytes:
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xc0\xff\xc0"
    return b"\xff\xd8" + comment + b"\xff\xc0" + struct.pack(">HBHH", 11, 8, height, width)


def wav(seconds: float, *, rate: int = 8000) -> bytes:
    data = b"\0" * int(seconds * rate) * 2
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt "
    return head + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + b"data\0\0\0\0" + data


@pytest.mark.parametrize(
    "data",
    [
        png(40, 30),
        jpeg(40, 30),
        b"GIF89a" + struct.pack("<HH", 40, 30),
        b"BM" + b"\0" * 16 + struct.pack("<ii", 40, -30),
    ],
    ids=["png", "jpeg", "gif", "bmp"],
)
def test_pictures_of_known_formats_are_taken(data: bytes) -> None:
    assert check_picture({"url": data_url(data)}, "w").endswith(base64.b64encode(data).decode())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/x.png", "not fetched"),
        ("https://example.org/x.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("/etc/passwd", "not fetched"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,%%%", "base64"),
        (data_url(b"<svg/>"), "PNG, JPEG, GIF or BMP"),
        (data_url(b"RIFF\0\0\0\0WEBP"), "PNG, JPEG, GIF or BMP"),
        (data_url(png(60_000, 60_000)), "60000x60000"),
        (data_url(png(0, 30)), "0x30"),
        (data_url(jpeg(60_000, 60_000)), "60000x60000"),
        (data_url(jpeg(40, 30)[:12]), "cut off"),
        (data_url(b"\xff\xd8\xff" + b"\xff" * 100), "cut off"),
        (data_url(png(40, 30)[:14]), "cut off"),
    ],
)
def test_other_pictures_are_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        check_picture({"url": url}, "messages.0.content.1.image_url")
    assert caught.value.param == "messages.0.content.1.image_url.url"


def test_what_is_done_with_a_picture_cannot_be_chosen() -> None:
    with pytest.raises(UnsupportedParameter, match="detail"):
        check_picture({"url": data_url(png(1, 1)), "detail": "low"}, "w")


def sound(data: bytes, kind: str = "wav") -> dict[str, str]:
    return {"data": base64.b64encode(data).decode(), "format": kind}


def test_sounds_of_a_bearable_length_are_taken() -> None:
    check_sound(sound(wav(1)), "w")
    check_sound(sound(b"ID3\4", "mp3"), "w")
    check_sound(sound(b"\xff\xfb\x90", "mp3"), "w")


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (sound(wav(0)), "lasts 0 seconds"),
        (sound(wav(1801, rate=8)), "lasts 1801 seconds"),
        (sound(wav(1, rate=0)), "makes no sense"),
        (sound(b"RIFF"), "no WAV"),
        (sound(wav(1), "mp3"), "no MP3"),
        (sound(b"\0" * (2**24 + 1)), "bytes"),
        ({"data": "%", "format": "wav"}, "base64"),
    ],
)
def test_other_sounds_are_refused(audio: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_sound(audio, "w")


def test_a_model_that_only_reads_says_so() -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(png(4, 4))}}
    message: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "what?"}, part]}
    with pytest.raises(UnsupportedParameter, match="reads text only, not 'image_url'") as caught:
        MessageReader().read([message])
    assert caught.value.param == "messages.0.content.1.type"
    with pytest.raises(UnsupportedParameter, match="input_audio and text only"):
        MessageReader(hears=True).read([message])
    (read,) = MessageReader(sees=True).read([message])
    assert read["content"][1]["image_url"]["url"].startswith("data:image/")


@pytest.mark.parametrize(
    ("fields", "effort", "arguments"),
    [
        ({"reasoning_effort"}, "high", {"reasoning_effort": "high"}),
        ({"enable_thinking"}, "none", {"enable_thinking": False}),
        ({"enable_thinking"}, "low", {"enable_thinking": True}),
        ({"enable_thinking", "reasoning_effort"}, "low", {"reasoning_effort": "low"}),
    ],
)
def test_effort_is_told_to_templates_that_know_it(
    fields: set[str], effort: str, arguments: dict[str, Any]
) -> None:
    voice = Voice(loaded_as="m", template_fields=frozenset(fields))
    body = {"messages": [{"role": "user", "content": "hi"}], "reasoning_effort": effort}
    request = TextRequest(body=body, raw=b"", stream=False, model="m", request_id="r")
    (ask,) = ChatJob(request, voice).asks
    assert ask["chat_template_kwargs"] == arguments
    with pytest.raises(UnsupportedParameter, match="template does not know"):
        ChatJob(request, Voice(loaded_as="m"))


def test_each_request_says_which_adapter_it_wants() -> None:
    voice = Voice(loaded_as="m", adapters={"formal": 0, "rude": 1})
    assert voice.adapted("rude") == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]}
    assert voice.adapted(None) == {"lora": [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]}
    assert Voice(loaded_as="m").adapted(None) == {}
