"""The same beyond text: JSON and forms for models that embed, judge, hear, speak, draw and see."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.contract.testing import blank_png
from tests.fuzzing import LONG, TEXTS, send, spoilt, written
from tests.running import Platform
from tests.tiny_encoders import classifier_folder
from tests.tiny_recognisers import vit_folder, yolos_folder

pytestmark = pytest.mark.slow

PNG: Final = blank_png(32, 32)
PICTURE: Final = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
JSON: Final[dict[str, dict[str, Any]]] = {
    "/v1/embeddings": {"model": "all-minilm-l6-v2", "input": ["a"], "dimensions": 384, "truncate": True},
    "/v1/moderations": {"model": "judge", "input": ["a", "b"]},
    "/v1/rerank": {"model": "ranks", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1},
    "/v2/rerank": {"model": "ranks", "query": "a", "documents": ["b", "c"], "top_n": 1},
    "/v1/audio/speech": {
        "model": "piper-en-us-joe",
        "input": "a",
        "voice": "alloy",
        "speed": 1,
        "response_format": "wav",
        "stream_format": "audio",
    },
    "/v1/images/generations": {
        "model": "digits-diffusion",
        "prompt": "a handwritten seven",
        "n": 1,
        "size": "32x32",
        "steps": 2,
        "seed": 1,
        "guidance_scale": 3,
        "negative_prompt": "x",
        "response_format": "b64_json",
        "output_format": "png",
        "stream": False,
    },
    "/v1/images/ocr": {"model": "pp-ocr-v6", "image": PICTURE},
    "/v1/images/classify": {"model": "sees", "image": PICTURE, "top_k": 2},
    "/v1/images/detect": {"model": "finds", "image": PICTURE, "threshold": 0.5},
    "/v1/batches": {
        "input_file_id": "file-x",
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    },
}
FORMS: Final[dict[str, dict[str, str]]] = {
    "/v1/audio/transcriptions": {
        "model": "whisper-base",
        "language": "en",
        "prompt": "a",
        "response_format": "json",
        "temperature": "0",
        "timestamp_granularities[]": "word",
        "chunking_strategy": "auto",
        "stream": "false",
    },
    "/v1/audio/translations": {"model": "whisper-base", "prompt": "a", "response_format": "json"},
    "/v1/images/edits": {"model": "digits-diffusion", "prompt": "a handwritten seven", "steps": "2"},
    "/v1/images/variations": {"model": "digits-diffusion", "n": "1", "steps": "2"},
    "/v1/images/ocr": {"model": "pp-ocr-v6"},
    "/v1/files": {
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
    },
}
FILES: Final = {"/v1/audio": "file", "/v1/files": "file", "/v1/images": "image"}
MOST_PICTURES: Final = 2
BOUNDARY: Final = "fuzz-boundary"


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(16000))
    return file.getvalue()


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    body = draw(spoilt(JSON[path], frozenset(JSON[path])))
    for name in ("n", "steps"):
        if isinstance(body.get(name), int) and body[name] > MOST_PICTURES:
            body[name] = MOST_PICTURES
    return draw(written(body))


@st.composite
def forms(draw: st.DrawFn, path: str) -> bytes:
    """Fields with anything in them, and a file that is good, cut off, or something else."""
    fields = dict(FORMS[path])
    for _ in range(draw(st.integers(0, 2))):
        fields[draw(st.sampled_from(sorted(fields)))] = draw(TEXTS)
    good = sound() if "audio" in path else PNG
    content = draw(st.one_of(st.sampled_from([good, good, good[: len(good) // 2], PNG, b""]), st.binary()))
    part = next(name for prefix, name in FILES.items() if path.startswith(prefix))
    lines = [
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{part}"; filename="a"\r\n\r\n'
    told = "".join([*lines, head]).encode("utf-8", "surrogatepass")
    whole = told + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return draw(st.sampled_from([whole, whole, whole, whole[: len(whole) // 2], whole[:-6]]))


@pytest.fixture(scope="module", autouse=True)
def _models(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tiny ones for what the catalog has none for."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        "judge": classifier_folder(folder / "judge", labels=("OK", "violence")),
        "ranks": classifier_folder(folder / "ranks", labels=("relevance",)),
        "sees": vit_folder(folder / "sees"),
        "finds": yolos_folder(folder / "finds"),
    }
    for name, path in made.items():
        assert platform.post("/api/models", {"path": str(path), "name": name})["error"] is None


@pytest.fixture(autouse=True)
def _healthy_after(platform: Platform) -> Iterator[None]:
    yield
    assert send(platform, "/v1/embeddings", json.dumps(JSON["/v1/embeddings"]).encode()) == 200
    for model in platform.get("/api/models")["models"]:
        assert not model["in_flight"], model["name"]
        assert len(model["replicas"]) <= 1, model["name"]


@pytest.mark.parametrize("path", JSON)
def test_json(platform: Platform, path: str) -> None:
    if path != "/v1/batches":
        assert send(platform, path, json.dumps(JSON[path]).encode()) == 200
    LONG(given(bodies(path))(lambda body: _survives(platform, path, body)))()


@pytest.mark.parametrize("path", FORMS)
def test_forms(platform: Platform, path: str) -> None:
    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    LONG(given(forms(path))(lambda body: _survives(platform, path, body, content_type)))()


def _survives(platform: Platform, path: str, body: bytes, content_type: str = "application/json") -> None:
    send(platform, path, body, content_type)
