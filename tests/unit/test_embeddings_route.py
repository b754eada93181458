"""What `/v1/embeddings` takes and gives, whatever engine is behind it."""

from __future__ import annotations

import base64
import io
import json
import struct
from array import array
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.embedding_create_params import EmbeddingCreateParams
from PIL import Image

from ekiben.catalog.specs import resolve_model
from ekiben.contract import Embeddings, EmbedImage, EmbedRequest
from ekiben.errors import InvalidRequest
from ekiben.plugins.discovery import discover
from ekiben.runtime.embedding import embeddings
from ekiben.runtime.embedding import inputs as embedding_input
from tests.replica_routes import client

MODEL = resolve_model("all-minilm-l6-v2", plugins=discover())


def picture(width: int, height: int) -> str:
    """A data URL of it, black."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


PICTURE = picture(3, 2)
LARGE = picture(8000, 5000)
BOMB = picture(20_000, 20_000)


class Lengths:
    """Two dimensions: how long an input is, and how many came before it."""

    def __init__(self) -> None:
        self.requests: list[EmbedRequest] = []

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.requests.append(request)
        lengths = [len(entry.png if isinstance(entry, EmbedImage) else entry) for entry in request.inputs]
        rows = [(length, index) for index, length in enumerate(lengths)]
        values = array("f", [float(value) for row in rows for value in row])
        vectors: Any = memoryview(values.tobytes()).cast("f", (len(rows), 2))
        return Embeddings(vectors=vectors, prompt_tokens=sum(length for length, _ in rows))

    async def unload(self) -> None:
        pass


async def post(body: object) -> tuple[int, Any, Lengths]:
    engine = Lengths()
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client(MODEL, engine, embeddings.ROUTES) as http:
        answer = await http.post(
            "/v1/embeddings", content=content, headers={"content-type": "application/json"}
        )
    return answer.status_code, answer.json(), engine


def test_the_fields_are_those_of_the_openai_package() -> None:
    assert set(embeddings._FIELDS) == set(get_type_hints(EmbeddingCreateParams))


@pytest.mark.parametrize(
    ("given_input", "seen"),
    [
        ("a text", ["a text"]),
        (["one", "three"], ["one", "three"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([0], [[0]]),
    ],
)
async def test_every_kind_of_input(given_input: object, seen: list[object]) -> None:
    status, body, engine = await post({"model": MODEL.name, "input": given_input})
    assert status == 200
    answer = CreateEmbeddingResponse.model_validate(body, strict=True)
    assert list(engine.requests[0].inputs) == seen
    assert (answer.object, answer.model) == ("list", MODEL.name)
    assert [(item.object, item.index) for item in answer.data] == [("embedding", i) for i in range(len(seen))]
    assert [item.embedding for item in answer.data] == [[len(entry), i] for i, entry in enumerate(seen)]  # type: ignore[arg-type]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, seen))  # type: ignore[arg-type]


async def test_base64_is_little_endian_float32() -> None:
    body = {"model": MODEL.name, "input": ["one", "three"], "encoding_format": "base64"}
    _, answer, _ = await post(body)
    rows = [struct.unpack("<2f", base64.b64decode(item["embedding"])) for item in answer["data"]]
    assert rows == [(3.0, 0.0), (5.0, 1.0)]


async def test_an_alias_is_answered_under_the_model_s_own_name() -> None:
    status, answer, _ = await post({"model": MODEL.aliases[0], "input": "x"})
    assert (status, answer["model"]) == (200, MODEL.name)


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"truncate": "END"}, {"truncate": True}),
        ({"truncate": "none"}, {"truncate": False}),
        ({"truncate": False}, {"truncate": False}),
        ({"truncate_prompt_tokens": -1}, {}),
        ({"truncate_prompt_tokens": 7}, {"max_tokens": 7}),
        ({"prompt_name": "passage"}, {"prompt_name": "passage"}),
        ({"input_type": "search_document"}, {"input_type": "document"}),
        ({"input_type": "query"}, {"input_type": "query"}),
    ],
)
async def test_fields_of_other_servers(fields: dict[str, object], seen: dict[str, Any]) -> None:
    status, _, engine = await post({"model": MODEL.name, "input": "x"} | fields)
    assert status == 200
    assert engine.requests == [EmbedRequest(inputs=["x"], **seen)]


async def test_pictures_reach_the_engine_decoded() -> None:
    parts = [
        "plain",
        {"text": "part"},
        {"image": PICTURE},
        {"type": "text", "text": "of a chat"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]
    status, body, engine = await post({"model": MODEL.name, "input": parts})
    assert (status, len(body["data"])) == (200, 5)
    plain, part, picture, chat, again = engine.requests[0].inputs
    assert (plain, part, chat) == ("plain", "part", "of a chat")
    assert isinstance(picture, EmbedImage)
    assert picture == again
    decoded = Image.open(io.BytesIO(picture.png))
    assert (decoded.format, decoded.size, decoded.mode) == ("PNG", (3, 2), "RGB")


async def test_dimensions_and_user_are_passed_and_taken() -> None:
    _, _, engine = await post({"model": MODEL.name, "input": "x", "dimensions": 7, "user": "somebody"})
    assert engine.requests[0].dimensions == 7


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        [],
        [""],
        ["a", ""],
        ["a", 1],
        [1, "a"],
        [1, [2]],
        [[1], 2],
        [[]],
        [[1], []],
        [[1], ["a"]],
        [1.5],
        [-1],
        [True],
        [None],
        {"text": "a"},
        [{"text": ""}],
        [{"text": "a", "image": PICTURE}],
        [{"image": PICTURE}, 5],
        [{"image": PICTURE}, [5]],
        [{"image": "https://example.com/a.png"}],
        [{"image": "data:image/svg+xml;base64,PHN2Zz4="}],
        [{"image": "data:image/png;base64,YQ=="}],
        [{"image": BOMB}],
        [{"image": PICTURE}] + [{"image": LARGE}] * 2,
        17,
        True,
        ["a"] * (embedding_input.MAX_INPUTS + 1),
        [[1]] * (embedding_input.MAX_INPUTS + 1),
        "a" * (embedding_input.MAX_INPUT_CHARACTERS + 1),
        [1] * (embedding_input.MAX_INPUT_TOKENS + 1),
        "half a pair: \ud83d",
        ["fine", "\udc00"],
    ],
)
async def test_wrong_input_is_named(wrong: object) -> None:
    status, body, engine = await post({"model": MODEL.name, "input": wrong})
    assert (status, body["error"]["param"], body["error"]["type"]) == (400, "input", "invalid_request_error")
    assert not engine.requests


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"encoding_format": 1}, 400, "encoding_format"),
        ({"encoding_format": ["float"]}, 400, "encoding_format"),
        ({"dimensions": 0}, 400, "dimensions"),
        ({"dimensions": -(10**12)}, 400, "dimensions"),
        ({"dimensions": "8"}, 400, "dimensions"),
        ({"dimensions": True}, 400, "dimensions"),
        ({"dimensions": 8.0}, 400, "dimensions"),
        ({"user": 5}, 400, "user"),
        ({"truncate": "START"}, 400, "truncate"),
        ({"truncate": 1}, 400, "truncate"),
        ({"truncate_prompt_tokens": 0}, 400, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": True}, 400, "truncate_prompt_tokens"),
        ({"prompt_name": 5}, 400, "prompt_name"),
        ({"input_type": "sonnet"}, 400, "input_type"),
        ({"input_type": "query", "prompt_name": "query"}, 400, "input_type"),
        ({"add_special_tokens": True}, 400, "add_special_tokens"),
        ({"model": None}, 400, "model"),
        ({"model": 5}, 400, "model"),
        ({"model": "another"}, 404, "model"),
        ({"model": "../" * 4000}, 404, "model"),
    ],
)
async def test_wrong_fields_are_named(change: dict[str, object], status: int, param: str) -> None:
    seen, body, engine = await post({"model": MODEL.name, "input": "x"} | change)
    assert (seen, body["error"]["param"]) == (status, param)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert len(body["error"]["message"]) < 500
    assert not engine.requests


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"input": "a", "input": "b"}',
        b"[" * 100_000,
        b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    status, body, _ = await post(raw)
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_json_is_inputs_of_one_kind_or_refused(value: object) -> None:
    try:
        inputs = embedding_input.parse_input(value)
    except InvalidRequest as error:
        assert error.param == "input"
        return
    assert inputs
    assert all(inputs)
    texts = all(isinstance(entry, str) for entry in inputs)
    tokens = all(isinstance(entry, list) and all(type(token) is int for token in entry) for entry in inputs)
    assert texts or tokens
