"""One short request to a replica, for the fleet's own sake."""

from __future__ import annotations

import asyncio
import contextlib

from ekiben.fleet.types import Address


async def call(address: Address, method: str, path: str) -> int | None:
    """The status of the answer; None when there is none. Waits as long as the replica lets it."""
    try:
        reader, writer = await _connect(address)
    except OSError:
        return None
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: replica\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        writer.write(head.encode("ascii"))
        version, _, rest = (await reader.readline()).partition(b" ")
        return int(rest[:3]) if version.startswith(b"HTTP/") and rest[:3].isdigit() else None
    except (OSError, ValueError):  # it broke off, or sent a line without an end
        return None
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.scheme == "unix":
        return await asyncio.open_unix_connection(address.location)
    host, _, port = address.location.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))
