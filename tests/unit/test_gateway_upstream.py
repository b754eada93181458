"""What a connection to a replica hands out at once, and what it keeps for the one who reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ekiben.gateway.relay.upstream import BUFFER_BYTES, Connection, UpstreamLost

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that remembers whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def write(self, data: Any) -> None:
        pass

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Request:
    in_memory = b"{}"


class Client:
    """Takes pieces as long as it is told to."""

    def __init__(self) -> None:
        self.takes = True
        self.taken: list[bytes] = []

    def __call__(self, data: bytes) -> bool:
        if self.takes:
            self.taken.append(data)
        return self.takes


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answering() -> tuple[Connection, Wire]:
    connection, wire = Connection(), Wire()
    connection.connection_made(wire)
    await connection.request(b"", Request())  # type: ignore[arg-type] # all that is asked of a short body
    connection.data_received(HEAD)
    return connection, wire


async def reading(connection: Connection, client: Client) -> asyncio.Task[bytes]:
    task = asyncio.create_task(connection.read(client))
    await asyncio.sleep(0)
    return task


async def test_pieces_go_to_the_one_who_takes_them_and_wake_nobody() -> None:
    connection, _ = await answering()
    client = Client()
    task = await reading(connection, client)
    for piece in (b"one", b"two"):
        connection.data_received(chunk(piece))
        assert client.taken[-1] == piece
    await asyncio.sleep(0)
    assert not task.done()
    connection.data_received(b"0\r\n\r\n")
    assert await task == b""
    assert connection.at_end


async def test_what_is_refused_is_read_in_its_place() -> None:
    connection, _ = await answering()
    client = Client()
    task = await reading(connection, client)
    connection.data_received(chunk(b"one"))
    client.takes = False
    connection.data_received(chunk(b"two") + chunk(b"three"))
    connection.data_received(chunk(b"four"))
    assert await task == b"twothreefour"
    assert client.taken == [b"one"]


async def test_after_the_reader_has_left_all_is_kept() -> None:
    connection, _ = await answering()
    client = Client()
    task = await reading(connection, client)
    task.cancel()
    await asyncio.wait({task})
    connection.data_received(chunk(b"one"))
    assert client.taken == []
    assert await connection.read() == b"one"


async def test_a_flood_that_is_taken_does_not_stop_the_reading() -> None:
    connection, wire = await answering()
    client = Client()
    await reading(connection, client)
    connection.data_received(chunk(bytes(BUFFER_BYTES + 1)))
    assert wire.reads
    assert sum(map(len, client.taken)) == BUFFER_BYTES + 1


async def test_a_flood_that_is_refused_stops_the_reading_until_it_is_read() -> None:
    connection, wire = await answering()
    client = Client()
    client.takes = False
    task = await reading(connection, client)
    connection.data_received(chunk(bytes(BUFFER_BYTES)))
    connection.data_received(chunk(bytes(BUFFER_BYTES)))
    assert not wire.reads
    assert len(await task) == 2 * BUFFER_BYTES
    assert wire.reads


async def test_the_end_of_the_connection_is_told_after_what_was_taken() -> None:
    connection, _ = await answering()
    client = Client()
    task = await reading(connection, client)
    connection.data_received(chunk(b"one"))
    connection.connection_lost(None)
    with pytest.raises(UpstreamLost):
        await task
