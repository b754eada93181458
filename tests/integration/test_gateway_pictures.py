"""Pictures that are asked for as URLs: kept by the platform, read without a key, and told to nobody else."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ekiben.contract.model import ModelSpec
from tests.integration.gateway_lab import Lab, Response, answer_bytes, running_lab

PAINTER = ModelSpec.model_validate(
    {
        "name": "painter",
        "family": "vision",
        "abilities": ["generate_image", "edit_image"],
        "variants": [
            {"format": "diffusers", "engine": "diffusers", "source": {"kind": "local", "path": "/painter"}}
        ],
    }
)
PATH = "/v1/images/generations"
ANSWER = {
    "created": 1,
    "output_format": "webp",
    "data": [
        {"b64_json": base64.b64encode(b"picture %d" % number).decode(), "seed": number} for number in (1, 2)
    ],
}


@asynccontextmanager
async def painting(**flags: Any) -> AsyncIterator[Lab]:
    async with running_lab(**flags) as lab:
        lab.fleet.catalog.add(PAINTER)
        lab.replica.script = answered(asks=True)
        try:
            yield lab
        finally:
            lab.fleet.catalog.remove("painter")


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with painting() as lab:
        yield lab


def answered(*, asks: bool) -> Any:
    body = json.dumps(ANSWER).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    return answer_bytes(head + (b"x-ekiben-pictures: url\r\n" if asks else b"") + b"\r\n" + body)


async def draw(lab: Lab, **headers: str) -> Response:
    return await lab.ask("POST", PATH, b'{"model": "painter", "prompt": "a box"}', headers=headers)


def path_of(url: str) -> str:
    return url.removeprefix("http://127.0.0.1")


async def test_pictures_are_kept_and_told_by_urls(lab: Lab) -> None:
    response = await draw(lab)
    assert lab.replica.seen[0].headers["x-ekiben-pictures"] == "kept"
    assert "x-ekiben-pictures" not in response.headers
    answer = response.json()
    assert [picture["seed"] for picture in answer["data"]] == [1, 2]
    assert all(picture.keys() == {"url", "seed"} for picture in answer["data"])
    first, second = (picture["url"] for picture in answer["data"])
    assert first != second
    shown = await lab.ask("GET", path_of(first))
    assert (shown.status, shown.body) == (200, b"picture 1")
    assert shown.headers["content-type"] == "image/webp"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert (await lab.ask("GET", path_of(second))).body == b"picture 2"


async def test_other_answers_pass_as_they_are(lab: Lab) -> None:
    lab.replica.script = answered(asks=False)
    assert (await draw(lab)).json() == ANSWER


async def test_what_is_not_there_is_not_found(lab: Lab) -> None:
    for name in ("A" * 43 + ".png", "..%2f..%2fekiben.db", "x", "%00"):
        assert (await lab.ask("GET", f"/v1/images/files/{name}")).status == 404


async def test_the_name_is_the_only_key_that_it_takes() -> None:
    async with painting(api_key="secret") as lab:
        assert (await draw(lab)).status == 401
        response = await draw(lab, authorization="Bearer secret")
        shown = await lab.ask("GET", path_of(response.json()["data"][0]["url"]))
        assert shown.body == b"picture 1"


async def test_urls_begin_as_the_operator_says() -> None:
    async with painting(public_url="https://ai.example.com/ekiben/") as lab:
        url = (await draw(lab)).json()["data"][0]["url"]
        assert url.startswith("https://ai.example.com/ekiben/v1/images/files/")


async def test_an_odd_host_does_not_get_into_urls() -> None:
    async with painting(api_key="secret") as lab:
        response = await draw(lab, authorization="Bearer secret", host="a/../@evil")
        assert response.status == 400 or "evil" not in response.json()["data"][0]["url"]


async def test_a_full_disk_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ekiben.store.pictures.PictureStore.save", full)
    response = await draw(lab)
    assert response.status == 503
    assert "b64_json" in response.error()["message"]
