"""The body of a request, kept as it came: small ones in memory, large ones in a nameless file."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Final

from ekiben.errors import CapacityError, RequestTooLarge
from ekiben.gateway.http.exchange import Exchange

MEMORY_BYTES: Final = 2**20
CHUNK_BYTES: Final = 256 * 1024


class Body:
    """All bytes of one request's body. Close it to give the disk space back."""

    __slots__ = ("_file", "_map", "_memory", "size_bytes")

    def __init__(self, memory: bytes, file: IO[bytes] | None = None, size_bytes: int | None = None) -> None:
        self._memory = memory
        self._file = file
        self._map: mmap.mmap | None = None
        self.size_bytes = len(memory) if size_bytes is None else size_bytes

    @property
    def in_memory(self) -> bytes | None:
        """The bytes, unless they are on disk."""
        return None if self._file else self._memory

    def view(self) -> bytes | mmap.mmap:
        """The bytes in one piece, without reading them all into memory."""
        if self._file is None:
            return self._memory
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def chunks(self) -> Iterator[bytes]:
        """From the beginning, each time it is asked for."""
        if self._file is None:
            yield self._memory
            return
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            yield chunk

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()


async def read_body(
    exchange: Exchange, *, limit_bytes: int, tell: Callable[[bytes], None] | None = None
) -> Body:
    """Receive the whole body; `tell` sees each piece as it comes.

    Raises ClientGone, RequestTooLarge as soon as it is certain, and whatever `tell` raises.
    """
    declared = exchange.headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise RequestTooLarge(
            f"the body has {int(declared)} bytes, the limit is {limit_bytes}: send less, or in parts"
        )
    data, more = await exchange.receive()
    if tell is not None:
        tell(data)
    if not more and len(data) <= limit_bytes:
        return Body(data)
    return await _read_rest(exchange, data, more=more, limit_bytes=limit_bytes, tell=tell)


async def _read_rest(
    exchange: Exchange,
    data: bytes,
    *,
    more: bool,
    limit_bytes: int,
    tell: Callable[[bytes], None] | None,
) -> Body:
    spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 - the body owns it
    try:
        _check_size(exchange, limit_bytes)
        spool.write(data)
        while more:
            data, more = await exchange.receive()
            _check_size(exchange, limit_bytes)
            if tell is not None:
                tell(data)
            spool.write(data)
        spool.flush()
    except OSError as error:
        spool.close()
        raise CapacityError(
            f"the request's body cannot be kept on disk: {error.strerror}", retry_after_s=30
        ) from None
    except BaseException:
        spool.close()
        raise
    if spool.tell() <= MEMORY_BYTES:
        with spool:
            spool.seek(0)
            return Body(spool.read())
    return Body(b"", spool, exchange.received_bytes)


def _check_size(exchange: Exchange, limit_bytes: int) -> None:
    if exchange.received_bytes > limit_bytes:
        raise RequestTooLarge(f"the body is larger than the limit of {limit_bytes} bytes: send less")
