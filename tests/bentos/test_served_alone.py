"""Each family's Bento under stock `bentoml serve`, with a real model, asked by the unmodified SDK."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.bentos.processes import ROOT, Served
from tests.running import wait_until

Serve = Callable[..., Served]
Weights = Callable[[str], Path]
FRUITS: Any = [{"role": "user", "content": "Name three fruits."}]


@pytest.fixture
def serve_model(serve: Serve, weights: Weights, weights_home: Path) -> Callable[[str, str], Served]:
    def start(family: str, model: str) -> Served:
        weights(model)
        served = serve(
            str(ROOT / "bentos" / family), env={"EKIBEN_MODEL": model, "EKIBEN_HOME": str(weights_home)}
        ).wait_until_ready()
        assert [listed.id for listed in served.openai.models.list()] == [model]
        for path in ("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/metrics"):
            assert served.get(path).status_code == 200, path
        return served

    return start


def test_llm(serve_model: Callable[[str, str], Served]) -> None:
    served = serve_model("llm", "smollm2-135m-instruct")
    settings: dict[str, Any] = {
        "model": "smollm2-135m-instruct",
        "messages": FRUITS,
        "temperature": 0,
        "max_tokens": 30,
    }
    whole = served.openai.chat.completions.create(**settings)
    assert "Bananas" in whole.choices[0].message.content
    chunks = served.openai.chat.completions.create(**settings, stream=True)
    assert "Bananas" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    completion = served.openai.completions.create(
        model="smollm2-135m-instruct", prompt="One, two, three,", max_tokens=5, temperature=0
    )
    assert "four" in completion.choices[0].text
    asked = {"model": "smollm2-135m-instruct", "max_tokens": 30, "temperature": 0, "messages": FRUITS}
    message = served.post("/v1/messages", json=asked).json()
    assert "Bananas" in message["content"][0]["text"]
    counted = served.post("/v1/messages/count_tokens", json={"model": asked["model"], "messages": FRUITS})
    used = message["usage"]
    assert counted.json() == {"input_tokens": used["input_tokens"] + used["cache_read_input_tokens"]}
    native = served.post("/generate", json={"prompt": "Name three fruits.", "max_tokens": 30})
    assert native.status_code == 200 and len(native.text) > 10
    counts = served.get("/metrics").text
    assert 'ekiben_replica_requests_total{route="/v1/chat/completions",status="200"} 2.0' in counts
    assert "bentoml_service_request_total" in counts

    # Killed without a word, the supervisor leaves nobody behind.
    workers = served.workers
    served.process.kill()
    served.process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=5)
    assert gone and not alive


def test_embedding(serve_model: Callable[[str, str], Served]) -> None:
    served = serve_model("embedding", "all-minilm-l6-v2")
    answer = served.openai.embeddings.create(model="all-minilm-l6-v2", input=["a train", "a locomotive"])
    train, locomotive = (item.embedding for item in answer.data)
    assert sum(a * b for a, b in zip(train, locomotive, strict=True)) > 0.5
    native = served.post("/embed", json={"texts": ["a train"]}).json()
    assert native[0] == pytest.approx(train, abs=1e-4)
    assert served.post("/embed", json={"texts": []}).status_code == 400
    refused = served.post("/rerank", json={"query": "a train", "documents": ["a locomotive"]})
    assert refused.status_code == 400 and "cannot rerank" in refused.text
    refused = served.post("/moderate", json={"texts": ["a train"]})
    assert refused.status_code == 400 and "cannot moderate" in refused.text


def test_audio(serve_model: Callable[[str, str], Served], tmp_path: Path) -> None:
    served = serve_model("audio", "piper-en-us-joe")
    speech = served.openai.audio.speech.create(
        model="piper-en-us-joe", voice="default", input="Good morning.", response_format="wav"
    )
    assert speech.content[:4] == b"RIFF" and len(speech.content) > 10_000
    native = served.post("/speak", json={"text": "Good morning."})
    assert native.content[:4] == b"RIFF" and len(native.content) > 10_000
    refused = served.post("/transcribe", files={"audio": speech.content})
    assert refused.status_code == 400
    assert "the model 'piper-en-us-joe' cannot transcribe: it can speak" in refused.text
    wrong = served.post("/speak", json={"text": "Good morning.", "voice": "nobody"})
    assert wrong.status_code == 400 and "there is no voice 'nobody'" in wrong.text


def test_vision(serve_model: Callable[[str, str], Served]) -> None:
    served = serve_model("vision", "pp-ocr-v6")
    picture = Image.new("RGB", (480, 120), "white")
    font = ImageFont.load_default(size=48)
    ImageDraw.Draw(picture).text((30, 30), "PLATFORM 9", font=font, fill="black")
    png = io.BytesIO()
    picture.save(png, "PNG")
    url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    answer = served.openai.post(
        "/images/ocr", cast_to=httpx.Response, body={"model": "pp-ocr-v6", "image": url}
    )
    assert "PLATFORM" in answer.text
    native = served.post("/read_text", files={"image": png.getvalue()}).json()
    assert "PLATFORM" in native["text"]
    assert later(served, "/read_text", files={"image": png.getvalue()}) == native
    assert served.get("/read_text/status?task_id=none").status_code == 404


@pytest.mark.slow
def test_pictures_in_the_background(serve_model: Callable[[str, str], Served]) -> None:
    served = serve_model("vision", "digits-diffusion")
    asked = {"prompt": "a handwritten seven", "n": 2, "steps": 4, "seed": 1}
    files = [base64.b64decode(file) for file in later(served, "/generate_images", json=asked)]
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(32, 32)] * 2
    assert later(served, "/generate_images", json=asked | {"n": 1})
    refused = later(served, "/generate_images", json=asked | {"n": 11})
    assert "less than or equal to 10" in str(refused)


def later(served: Served, path: str, **request: Any) -> Any:
    """The answer to what was submitted."""
    task = served.post(f"{path}/submit", **request).json()["task_id"]
    wait_until(lambda: _status(served, path, task) != "in_progress" or None, "the task to end")
    return served.get(f"{path}/get?task_id={task}").json()


def _status(served: Served, path: str, task: str) -> str:
    return str(served.get(f"{path}/status?task_id={task}").json()["status"])
