"""The main job: models of four families, none of them running, asked through the unmodified SDK."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

SENTENCES = (
    "A train stops at the platform.",
    "The railway carriage halts at the station.",
    "Photosynthesis turns light into sugar.",
)
SPOKEN = "Good morning, and welcome to the railway station."


@pytest.fixture(scope="module")
def platform(make_platform: Callable[..., Any]) -> Any:
    return make_platform("--keep-alive", "3s").start()


def test_nothing_runs_and_everything_is_listed(platform: Any) -> None:
    names = [model.id for model in platform.client.models.list()]
    assert {
        "smollm2-135m-instruct",
        "all-minilm-l6-v2",
        "whisper-base",
        "piper-en-us-joe",
        "pp-ocr-v6",
    } <= set(names)
    for model in platform.get("/v1/models")["data"]:
        assert model["state"] == "cold"
    idle = platform.get("/api/replicas")
    assert (idle["replicas"], idle["zygotes"]) == ([], [])
    assert idle["memory"]["cpu"]["held_bytes"] == 0


def test_chat_cold_then_warm_then_gone(platform: Any) -> None:
    question: Any = [{"role": "user", "content": "Name three fruits."}]
    for _ in ("cold", "warm"):
        answer = platform.client.chat.completions.create(
            model="smollm2-135m-instruct", messages=question, temperature=0, max_tokens=40
        )
        text = answer.choices[0].message.content
        assert text is not None
        assert all(fruit in text for fruit in ("Bananas", "Oranges", "Grapes"))
    assert platform.model("smollm2-135m-instruct")["state"] == "ready"
    pid = platform.replica_pid("smollm2-135m-instruct")
    platform.wait_for("smollm2-135m-instruct", "cold")
    assert pid not in [process.pid for process in platform.processes()]


def test_chat_stream_of_a_cold_model(platform: Any) -> None:
    stream = platform.client.chat.completions.create(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "Name three fruits."}],
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Bananas" in text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 5


def test_embeddings_order_sentences_by_meaning(platform: Any) -> None:
    answer = platform.client.embeddings.create(model="all-minilm-l6-v2", input=list(SENTENCES))
    train, carriage, plant = (item.embedding for item in answer.data)
    assert cosine(train, carriage) > cosine(train, plant) + 0.2
    assert len(train) == 384


def test_embeddings_equal_the_library(platform: Any, weights: Callable[[str], Any]) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(weights("all-minilm-l6-v2")), device="cpu").encode(list(SENTENCES))
    answer = platform.client.embeddings.create(model="all-minilm-l6-v2", input=list(SENTENCES))
    for item, vector in zip(answer.data, expected, strict=True):
        assert item.embedding == pytest.approx(vector.tolist(), abs=1e-4)


def test_speech_comes_back_word_for_word(platform: Any) -> None:
    speech = platform.client.audio.speech.create(
        model="piper-en-us-joe", voice="default", input=SPOKEN, response_format="wav"
    )
    heard = platform.client.audio.transcriptions.create(
        model="whisper-base", file=("speech.wav", speech.content)
    )
    assert words(heard.text) == words(SPOKEN)


def test_rendered_picture_is_read(platform: Any) -> None:
    image = Image.new("RGB", (640, 160), "white")
    ImageDraw.Draw(image).text((20, 40), "Tokyo Station 1914", "black", ImageFont.load_default(size=56))
    file = io.BytesIO()
    image.save(file, "PNG")
    answer = platform.client.post(
        "/images/ocr",
        cast_to=object,
        body={"model": "pp-ocr-v6"},
        files={"image": ("sign.png", file.getvalue(), "image/png")},
        options={"headers": {"content-type": "multipart/form-data"}},
    )
    assert words(answer["text"]) == ["tokyo", "station", "1914"]


def test_all_are_gone_after_their_idle_time(platform: Any) -> None:
    for name in ("all-minilm-l6-v2", "whisper-base", "piper-en-us-joe", "pp-ocr-v6"):
        platform.wait_for(name, "cold")
    warm = {zygote["pid"] for zygote in platform.get("/api/replicas")["zygotes"]}
    assert {process.pid for process in platform.processes()} == {platform.process.pid} | warm


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
