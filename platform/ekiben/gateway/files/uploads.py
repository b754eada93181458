"""Takes in a file as it comes: straight to the disk, a piece at a time, whatever its size."""

from __future__ import annotations

import asyncio
from typing import Final

from ekiben.errors import InvalidRequest, RequestTooLarge
from ekiben.gateway.files.library import Library
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.http.multipart import FormFields
from ekiben.gateway.relay.target import FORM_TYPE, check_type
from ekiben.store.blobs import Draft
from ekiben.store.files import StoredFile

PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
KEEP_BATCH_S: Final = 30 * 24 * 3600
"""Inputs of batches go after so long, unless the client says otherwise; other files stay."""
LEAST_KEEP_S: Final = 3600
MOST_KEEP_S: Final = 30 * 24 * 3600
MAX_NAME: Final = 255
FORM_BYTES: Final = 64 * 1024
"""What may be around a file."""
FLUSH_BYTES: Final = 2**20

_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_FIELDS: Final = (b"purpose", _ANCHOR.encode(), _SECONDS.encode())


async def take_file(exchange: Exchange, library: Library) -> StoredFile:
    """The file of a request, on the disk. Raises ClientGone, RequestError and StorageFull."""
    check_type(exchange, frozenset({FORM_TYPE}))
    _check_declared(exchange, library)
    file_id, draft = await library.begin()
    try:
        form = await _Intake(exchange, library, draft).run()
        purpose, keep_s = _purpose(form), _keep_s(form)
        filename = _filename(form)
        return await library.add(file_id, draft, filename=filename, purpose=purpose, keep_s=keep_s)
    finally:
        await asyncio.to_thread(draft.drop)


def _check_declared(exchange: Exchange, library: Library) -> None:
    """What would be refused at its end is refused at once."""
    declared = exchange.headers.get(b"content-length", b"")
    if declared.isdigit():
        library.check_room(max(0, int(declared) - FORM_BYTES))


class _Intake:
    """One body on its way to the disk."""

    def __init__(self, exchange: Exchange, library: Library, draft: Draft) -> None:
        self._exchange = exchange
        self._library = library
        self._draft = draft
        self._pending = bytearray()

    async def run(self) -> FormFields:
        content_type = self._exchange.headers.get(b"content-type", b"")
        form = FormFields(content_type, wanted=_FIELDS, file=self._pending.extend)
        more = True
        while more:
            data, more = await self._exchange.receive()
            form.feed(data)
            self._check_size()
            if len(self._pending) >= FLUSH_BYTES:
                await self._flush()
        form.finish()
        await self._flush()
        return form

    def _check_size(self) -> None:
        size_bytes = self._draft.size_bytes + len(self._pending)
        self._library.check_room(size_bytes)
        if self._exchange.received_bytes - size_bytes > FORM_BYTES:
            raise RequestTooLarge(f"there are more than {FORM_BYTES} bytes around the file")

    async def _flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        await asyncio.to_thread(self._draft.write, data)


def _purpose(form: FormFields) -> str:
    purpose = form.value("purpose")
    if purpose not in PURPOSES:
        shown = "missing" if purpose is None else f"{purpose[:100]!r}, which is none"
        raise InvalidRequest(f"'purpose' is {shown}: use one of {', '.join(PURPOSES)}", param="purpose")
    return purpose


def _filename(form: FormFields) -> str:
    name = form.filename
    if name is None:
        raise InvalidRequest("'file' is missing: send it as a part with a filename", param="file")
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequest(f"the file's name must have 1 to {MAX_NAME} printable characters", param="file")
    return name


def _keep_s(form: FormFields) -> int | None:
    anchor, seconds = form.value(_ANCHOR), form.value(_SECONDS)
    if anchor is None and seconds is None:
        return KEEP_BATCH_S if form.value("purpose") == "batch" else None
    whole = seconds is not None and seconds.isascii() and seconds.isdigit()
    return check_keep(anchor, int(seconds[:9]) if whole and seconds is not None else seconds)


def check_keep(anchor: object, seconds: object, *, param: str = "expires_after") -> int:
    """How long a client wants a file to be kept. Raises InvalidRequest."""
    if anchor != "created_at":
        raise InvalidRequest("the anchor must be 'created_at'", param=f"{param}.anchor")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not _lasts(seconds):
        raise InvalidRequest(
            f"the seconds must be a number from {LEAST_KEEP_S} to {MOST_KEEP_S}", param=f"{param}.seconds"
        )
    return seconds


def _lasts(seconds: int) -> bool:
    return LEAST_KEEP_S <= seconds <= MOST_KEEP_S
