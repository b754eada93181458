"""`GET /v1/images/files/NAME`: pictures that were asked for as URLs, and who puts the URLs into answers.

A replica always answers with the pictures themselves, and says whether they were asked for as URLs. They are
read without a key, since browsers and other servers have none: the name is the secret.
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Final

import msgspec

from ekiben.errors import CapacityError, NotFound
from ekiben.gateway.http.answers import Answer
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.routes import Route
from ekiben.store.pictures import PictureStore

PATH: Final = "/v1/images/files/{}"
HEADER: Final = b"x-ekiben-pictures"
"""To a replica: pictures can be kept. From it: they are to be."""
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


class Pictures:
    """Of one platform. `public_url`: how clients reach it; None: as each request did."""

    def __init__(self, store: PictureStore, *, public_url: str | None) -> None:
        self._store = store
        self._public_url = public_url

    def routes(self) -> list[Route]:
        return [Route("GET", PATH, self._show, open=True)]

    async def with_urls(self, exchange: Exchange, body: bytes) -> bytes:
        """An answer of a replica, its pictures kept here. Raises CapacityError when they cannot be."""
        base = (self._public_url or _address(exchange)).rstrip("/")
        try:
            return await asyncio.to_thread(self._keep, base, body)
        except OSError as error:
            raise CapacityError(
                f"the pictures cannot be kept on disk ({error.strerror}): ask for b64_json", retry_after_s=30
            ) from None

    def _keep(self, base: str, body: bytes) -> bytes:
        answer = msgspec.json.decode(body)
        for picture in answer["data"]:
            data = base64.b64decode(picture.pop("b64_json"))
            name = self._store.save(data, answer["output_format"])
            picture["url"] = base + PATH.replace("{}", name)
        return msgspec.json.encode(answer)

    async def _show(self, exchange: Exchange, name: str) -> None:
        data = await asyncio.to_thread(self._store.read, name)
        if data is None:
            raise NotFound("there is no such picture, or no more: they are kept for a while only")
        headers = {
            "x-content-type-options": "nosniff",
            "cache-control": "private, no-store",
            "content-disposition": "inline",
            "content-security-policy": "default-src 'none'; sandbox",
        }
        kind = name.rpartition(".")[2]
        await exchange.answer(Answer(data, content_type=f"image/{kind}", headers=headers))


def _address(exchange: Exchange) -> str:
    """As the client wrote it, where that is an address at all."""
    host = exchange.header(b"host")
    if not _HOST.fullmatch(host):
        name, port = exchange.scope.get("server") or ("127.0.0.1", None)
        host = f"[{name}]:{port}" if ":" in str(name) else f"{name}:{port}" if port else str(name)
    return f"{exchange.scope.get('scheme', 'http')}://{host}"
