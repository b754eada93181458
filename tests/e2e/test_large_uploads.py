"""Uploads cost neither the gateway nor a replica memory, whether they are refused or kept. Row B1.

Peaks are the kernel's own, so nothing that comes and goes is missed.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.running import Platform

MODEL: Final = "whisper-base"
GIGABYTE: Final = 2**30
PIECE: Final = bytes(2**20)
FLAT_BYTES: Final = 48 * 2**20
"""What allocators, buffers of sockets and a first request of its kind may take: a twentieth of the upload."""
PATH: Final = "/v1/audio/transcriptions"
KEPT_BYTES: Final = 400 * 2**20
FILE_OPENING: Final = (
    '--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    '--x\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
)
OPENING: Final = (
    f'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n{MODEL}\r\n'
    '--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
).encode()


@pytest.fixture(scope="module")
def platform(make_platform: Callable[..., Platform]) -> Platform:
    platform = make_platform().start()
    platform.post(f"/api/models/{MODEL}/load")
    platform.wait_for(MODEL, "ready")
    return platform


def replica(platform: Platform) -> dict[str, Any]:
    (found,) = platform.model(MODEL)["replicas"]
    return dict(found)


@contextlib.contextmanager
def flat(pid: int) -> Iterator[None]:
    """Within, the process's memory does not peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes(pid, "VmRSS")
    yield
    assert resident_bytes(pid, "VmHWM") - before < FLAT_BYTES


def resident_bytes(pid: int, kind: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def upload(connection: socket.socket, *, declared: bool) -> tuple[bytes, int]:
    """Send a gigabyte, or as much as is taken; what is answered, and how much that was."""
    size = f"content-length: {GIGABYTE}" if declared else "transfer-encoding: chunked"
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n{size}"
    )
    connection.sendall(head.encode() + b"\r\n\r\n")
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < GIGABYTE:
            piece = PIECE if sent else OPENING
            connection.sendall(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
            sent += len(piece)
            if connection in _readable(connection):
                break
    return connection.recv(65536), sent


def _readable(connection: socket.socket) -> list[socket.socket]:
    return select.select([connection], [], [], 0)[0]


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
def test_b1_a_gigabyte_that_the_gateway_refuses(platform: Platform, declared: bool) -> None:
    assert platform.process is not None
    host, _, port = platform.url.removeprefix("http://").partition(":")
    with (
        flat(platform.process.pid),
        flat(replica(platform)["pid"]),
        socket.create_connection((host, int(port)), timeout=120) as connection,
    ):
        answer, sent = upload(connection, declared=declared)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < (32 * 2**20 if declared else 600 * 2**20)
    assert platform.model(MODEL)["in_flight"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
def test_b1_a_gigabyte_that_a_replica_refuses(platform: Platform, declared: bool) -> None:
    told = replica(platform)
    path = told["address"].removeprefix("unix:")
    with flat(told["pid"]), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(path)
        answer, _ = upload(connection, declared=declared)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert list(platform.home.rglob("ekiben-upload-*")) == []


@pytest.mark.slow
def test_a_file_is_kept_and_read_without_being_held(platform: Platform) -> None:
    assert platform.process is not None
    tail = b"\r\n--x--\r\n"
    opening = FILE_OPENING.encode()
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=120)
    with flat(platform.process.pid), contextlib.closing(connection):
        headers = {
            "content-type": "multipart/form-data; boundary=x",
            "content-length": str(len(opening) + KEPT_BYTES + len(tail)),
        }
        pieces = itertools.chain([opening], itertools.repeat(PIECE, KEPT_BYTES // len(PIECE)), [tail])
        connection.request("POST", "/v1/files", pieces, headers)
        answer = connection.getresponse()
        file = json.loads(answer.read())
        assert (answer.status, file["bytes"]) == (200, KEPT_BYTES), file
        connection.request("GET", f"/v1/files/{file['id']}/content")
        answer = connection.getresponse()
        assert sum(map(len, iter(lambda: answer.read(len(PIECE)), b""))) == KEPT_BYTES
    platform.client.files.delete(file["id"])
