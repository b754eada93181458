"""Where requests may name pictures and sounds by URL, and how what was fetched takes the URL's place.

Handlers and engines see `data:` URLs only, so they go on refusing every other. Nothing is checked here but
what is needed to find the places: the routes do that, after it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ekiben.errors import InvalidRequest
from ekiben.runtime.http import Answer, Handler, Request, Stream
from ekiben.runtime.remote import Fetched, Remote

MAX_URLS: Final = 16
MAX_TOTAL_BYTES: Final = 22 * 2**20
"""Of all that is fetched for one request: as base64 it still fits a JSON body."""
_PICTURES: Final = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff"}
)
_SOUNDS: Final = frozenset(
    {"audio/wav", "audio/x-wav", "audio/mpeg", "audio/mp4", "audio/ogg", "audio/flac", "audio/webm"}
)
_FILMS: Final = frozenset({"video/mp4", "video/webm"})
_OF_CHATS: Final = {"image_url": _PICTURES, "audio_url": _SOUNDS, "video_url": _FILMS}


@dataclass(frozen=True, slots=True)
class Place:
    """A URL in a body: `holder[key]`."""

    holder: Any
    key: Any
    param: str
    types: frozenset[str] = _PICTURES
    source: bool = False
    """It is the `source` of Anthropic's, whose data is no URL."""

    @property
    def url(self) -> str:
        return str(self.holder[self.key])

    def fill(self, fetched: Fetched) -> None:
        """Put it where its URL was."""
        data = base64.b64encode(fetched.data).decode("ascii")
        if self.source:
            self.holder.clear()
            self.holder.update({"type": "base64", "media_type": fetched.media_type, "data": data})
        else:
            self.holder[self.key] = f"data:{fetched.media_type};base64,{data}"


def fetching(handler: Handler, remote: Remote) -> Handler:
    """A handler for requests whose URLs have been fetched."""

    async def handle(request: Request) -> Answer | Stream:
        if b"http" in request.raw.lower():
            body = request.json()
            if places := list(places_in(body)):
                await fill(places, remote)
                request = request.restated(body)
        return await handler(request)

    return handle


async def fill(places: list[Place], remote: Remote) -> None:
    """Fetch them all. Raises InvalidRequest; then nothing goes on behind."""
    if len(places) > MAX_URLS:
        raise InvalidRequest(
            f"at most {MAX_URLS} URLs are fetched for a request", param=places[MAX_URLS].param
        )
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(remote.fetch(place.url, types=place.types, param=place.param), name="fetch")
                for place in places
            ]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    total_bytes = 0
    for place, task in zip(places, tasks, strict=True):
        total_bytes += len(task.result().data)
        if total_bytes > MAX_TOTAL_BYTES:
            raise InvalidRequest(
                f"what the URLs name is larger than {MAX_TOTAL_BYTES} bytes together", param=place.param
            )
        place.fill(task.result())


def places_in(body: Mapping[str, Any]) -> Iterator[Place]:
    """All of them, in chats, responses, messages and the routes of vision."""
    for name in ("messages", "input"):
        for index, message in enumerate(_list(body.get(name))):
            if isinstance(message, dict):
                yield from _of_message(message, f"{name}.{index}")
    for name in ("image", "images", "mask"):
        yield from _of_pictures(body, name)


def _of_message(message: dict[str, Any], where: str) -> Iterator[Place]:
    for name in ("content", "output"):
        for index, part in enumerate(_list(message.get(name))):
            if isinstance(part, dict):
                yield from _of_part(part, f"{where}.{name}.{index}")


def _of_part(part: dict[str, Any], where: str) -> Iterator[Place]:
    kind = part.get("type")
    if kind == "input_image" and _is_remote(part.get("image_url")):
        yield Place(part, "image_url", f"{where}.image_url")
    elif kind == "image" and isinstance(source := part.get("source"), dict):
        if source.get("type") == "url" and set(source) == {"type", "url"} and _is_remote(source["url"]):
            yield Place(source, "url", f"{where}.source.url", source=True)
    elif kind == "tool_result":
        yield from _of_message(part, where)
    elif isinstance(kind, str) and kind in _OF_CHATS:
        holder = part.get(kind)
        if isinstance(holder, dict) and _is_remote(holder.get("url")):
            yield Place(holder, "url", f"{where}.{kind}.url", _OF_CHATS[kind])


def _of_pictures(body: Mapping[str, Any], name: str) -> Iterator[Place]:
    value = body.get(name)
    if _is_remote(value):
        yield Place(body, name, name)
    elif isinstance(value, dict) and _is_remote(value.get("image_url")):
        yield Place(value, "image_url", f"{name}.image_url")
    for index, item in enumerate(_list(value)):
        if _is_remote(item):
            yield Place(value, index, f"{name}.{index}")
        elif isinstance(item, dict) and _is_remote(item.get("image_url")):
            yield Place(item, "image_url", f"{name}.{index}.image_url")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_remote(value: object) -> bool:
    return isinstance(value, str) and value[:5].lower() != "data:"


def _first(errors: BaseExceptionGroup) -> BaseException:
    error: BaseException = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
