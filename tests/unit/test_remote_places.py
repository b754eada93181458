"""Where URLs stand in requests, and what stands there after they were fetched. Row H1."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from ekiben.errors import InvalidRequest
from ekiben.runtime.http import Answer, Request, Stream
from ekiben.runtime.remote import Fetched, Remote
from ekiben.runtime.remote_places import MAX_TOTAL_BYTES, MAX_URLS, fetching, places_in

URL = "https://cat.example/a.png"
DATA = "data:image/png;base64,AAAA"
FETCHED = "data:image/png;base64," + base64.b64encode(b"cat").decode()


class Library(Remote):
    """Has whatever is asked for, and remembers what that was."""

    def __init__(self, data: bytes = b"cat") -> None:
        super().__init__()
        self.data = data
        self.asked: list[tuple[str, str]] = []

    async def fetch(self, url: str, *, types: frozenset[str], param: str) -> Fetched:
        self.asked.append((url, param))
        if "nowhere" in url:
            raise InvalidRequest("is nowhere", param=param)
        await asyncio.sleep(0)
        return Fetched("image/png", self.data)


async def told(body: object, library: Library) -> Any:
    """What a handler sees of a body."""
    seen: list[Any] = []

    async def handler(request: Request) -> Answer | Stream:
        seen.append(request.json())
        return Answer(b"{}")

    request = object.__new__(Request)
    request.headers = {b"content-type": b"application/json"}
    request.raw = json.dumps(body).encode()
    await fetching(handler, library)(request)
    return seen[0]


def chat(part: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "http"}, part]}]}


def respond(part: object) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [part]}]}


SOURCE = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"cat").decode()}


@pytest.mark.parametrize(
    ("before", "after", "param"),
    [
        (
            chat({"type": "image_url", "image_url": {"url": URL, "detail": "low"}}),
            chat({"type": "image_url", "image_url": {"url": FETCHED, "detail": "low"}}),
            "messages.0.content.1.image_url.url",
        ),
        (
            respond({"type": "input_image", "image_url": URL}),
            respond({"type": "input_image", "image_url": FETCHED}),
            "input.0.content.0.image_url",
        ),
        (
            chat({"type": "image", "source": {"type": "url", "url": URL}}),
            chat({"type": "image", "source": SOURCE}),
            "messages.0.content.1.source.url",
        ),
        ({"image": URL}, {"image": FETCHED}, "image"),
        ({"image": [DATA, URL]}, {"image": [DATA, FETCHED]}, "image.1"),
        (
            {"images": [{"image_url": URL}], "mask": DATA},
            {"images": [{"image_url": FETCHED}], "mask": DATA},
            "images.0.image_url",
        ),
    ],
)
async def test_what_was_fetched_takes_the_place_of_its_url(
    before: dict[str, Any], after: dict[str, Any], param: str
) -> None:
    library = Library()
    assert await told(before, library) == after
    assert library.asked == [(URL, param)]


@pytest.mark.parametrize(
    "body",
    [
        chat({"type": "image_url", "image_url": {"url": DATA}, "x": "http"}),
        chat({"type": "text", "text": URL}),
        chat({"type": "image_url", "image_url": 5, "x": "http"}),
        chat({"type": ["image_url"], "image_url": {"url": URL}}),
        {"messages": URL, "input": URL, "prompt": URL},
        {"messages": [URL, 5, None, {"content": URL}, {"content": [URL, [URL]]}]},
        {"input": [[1, 2], URL], "images": 5, "image": {"url": URL}},
        {"tools": [{"type": "image_url", "image_url": {"url": URL}}]},
    ],
)
async def test_nothing_else_is_touched(body: dict[str, Any]) -> None:
    library = Library()
    assert await told(body, library) == body
    assert library.asked == []


async def test_what_cannot_be_fetched_is_told_with_its_place() -> None:
    body = chat({"type": "image_url", "image_url": {"url": "http://nowhere.example/"}})
    with pytest.raises(InvalidRequest) as caught:
        await told(body, Library())
    assert caught.value.param == "messages.0.content.1.image_url.url"


async def test_the_number_of_urls_and_their_size_together_are_bounded() -> None:
    many = {"images": [URL] * (MAX_URLS + 1)}
    library = Library()
    with pytest.raises(InvalidRequest, match="at most"):
        await told(many, library)
    assert library.asked == []
    with pytest.raises(InvalidRequest, match="together"):
        await told({"images": [URL] * 2}, Library(bytes(MAX_TOTAL_BYTES // 2 + 1)))


def test_places_are_found_without_a_word_about_what_is_wrong_around_them() -> None:
    assert (
        list(places_in({"messages": [{"content": {"type": "image_url"}}], "input": 5, "image": None})) == []
    )
