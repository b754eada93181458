"""HTTP by hand: clients so cheap that what is measured is the other side."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from typing import Any, Final
from urllib.parse import urlsplit

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
PATIENCE_S: Final = 60
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


def request(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of a POST."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def is_whole(answer: bytes | bytearray) -> bool:
    """Whether all of it has come."""
    end = answer.find(HEAD_END)
    if end < 0:
        return False
    length = LENGTH.search(answer, 0, end)
    if length is None:
        return answer.endswith(LAST_CHUNK)
    return len(answer) >= end + len(HEAD_END) + int(length[1])


class Client:
    """One kept connection to a URL, or to a unix socket."""

    def __init__(self, target: str) -> None:
        if target.startswith("http:"):
            parts = urlsplit(target)
            self._socket = socket.create_connection((parts.hostname, parts.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(target)
        self._socket.settimeout(PATIENCE_S)

    def ask(self, request: bytes) -> float:
        """Seconds until the whole answer was here."""
        started = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(2**16)
        while not is_whole(answer):
            data = self._socket.recv(2**16)
            assert data, "the connection was closed"
            answer += data
        seconds = time.perf_counter() - started
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return seconds

    def close(self) -> None:
        self._socket.close()


async def ask(target: str, request: bytes) -> None:
    """Send it on a connection of its own, to a URL or a unix socket, and read the whole answer."""
    if target.startswith("http:"):
        parts = urlsplit(target)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    else:
        reader, writer = await asyncio.open_unix_connection(target)
    writer.write(request)
    answer = bytearray()
    while not is_whole(answer):
        data = await reader.read(2**16)
        assert data, f"the connection was closed after {bytes(answer)!r}"
        answer += data
    assert answer.startswith(b"HTTP/1.1 200"), bytes(answer)
    writer.close()
