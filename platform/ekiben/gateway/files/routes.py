"""`/v1/files`: files that clients leave here, and those that batches made, listed, read and deleted."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote

from ekiben.gateway.files.library import Library
from ekiben.gateway.files.uploads import take_file
from ekiben.gateway.http.answers import json_answer
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.pages import is_descending, page, read_limit
from ekiben.gateway.routes import PARAMETER, Route
from ekiben.store.files import StoredFile

PATH: Final = "/v1/files"
MAX_PAGE: Final = 10_000
CHUNK_BYTES: Final = 256 * 1024


class Files:
    """Makes the routes."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def routes(self) -> list[Route]:
        return [
            Route("POST", PATH, self._create),
            Route("GET", PATH, self._list),
            Route("GET", f"{PATH}/{PARAMETER}", self._show),
            Route("DELETE", f"{PATH}/{PARAMETER}", self._delete),
            Route("GET", f"{PATH}/{PARAMETER}/content", self._content),
        ]

    async def _create(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(json_answer(file_object(await take_file(exchange, self._library))))

    async def _list(self, exchange: Exchange, _: str) -> None:
        files, has_more = await self._library.page(
            limit=read_limit(exchange.query("limit"), default=MAX_PAGE, most=MAX_PAGE),
            after=exchange.query("after"),
            descending=is_descending(exchange.query("order")),
            purpose=exchange.query("purpose"),
        )
        await exchange.answer(json_answer(page([file_object(file) for file in files], has_more=has_more)))

    async def _show(self, exchange: Exchange, file_id: str) -> None:
        await exchange.answer(json_answer(file_object(await self._library.file(file_id))))

    async def _delete(self, exchange: Exchange, file_id: str) -> None:
        await self._library.delete(file_id)
        await exchange.answer(json_answer({"id": file_id, "object": "file", "deleted": True}))

    async def _content(self, exchange: Exchange, file_id: str) -> None:
        file = await self._library.file(file_id)
        with await self._library.open(file) as content:
            exchange.watch()
            await exchange.start(
                200,
                [
                    (b"content-type", b"application/octet-stream"),
                    (b"content-length", b"%d" % file.size_bytes),
                    (b"content-disposition", _disposition(file.filename)),
                    (b"x-content-type-options", b"nosniff"),
                ],
            )
            left = file.size_bytes
            while left > 0 and (data := await asyncio.to_thread(content.read, min(left, CHUNK_BYTES))):
                left -= len(data)
                await exchange.write(data)
            if not left:  # one that is shorter than its row says is left cut, for the client to see
                await exchange.write(b"", more=False)


def file_object(file: StoredFile) -> dict[str, Any]:
    """As OpenAI tells it; `status` is of the days when files were looked through."""
    told = {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
    if file.expires_at is not None:
        told["expires_at"] = int(file.expires_at.timestamp())
    return told


def _disposition(filename: str) -> bytes:
    """Whatever the name is, it stays a name."""
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}".encode("ascii")
