"""How far long work has come, on its way from a request in a replica to the readers of events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from ekiben.runtime.process.channel import Channel
from ekiben.runtime.protocol import Report, Stage, Work
from ekiben.runtime.work import MAX_TOLD, WorkBook


class Platform:
    """What a book tells, as (request, done) of each."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[list[tuple[str, float]]] = asyncio.Queue()
        self.book = WorkBook(lambda work: self.told.put_nowait([(one.request, one.done) for one in work]))

    async def hears(self) -> list[tuple[str, float]]:
        async with asyncio.timeout(5):
            return await self.told.get()


async def test_the_first_step_is_told_at_once_and_the_last_of_several() -> None:
    platform = Platform()
    drawing = platform.book.open(request="req_1", route="/v1/images/generations")
    for done in range(1, 8):
        drawing.tell(done, total=8, unit="steps")
    assert platform.told.get_nowait() == [("req_1", 1)]
    assert await platform.hears() == [("req_1", 7)]
    assert platform.told.empty()


async def test_the_end_of_one_is_told_and_the_others_stay() -> None:
    platform = Platform()
    first, second = (platform.book.open(request=f"req_{n}", route="/") for n in (1, 2))
    first.tell(1, total=None, unit="seconds")
    second.tell(2, total=None, unit="seconds")
    first.close()
    first.close()
    assert await platform.hears() == [("req_1", 1)]
    assert await platform.hears() == [("req_2", 2)]
    second.close()
    assert await platform.hears() == []


async def test_requests_that_tell_nothing_are_not_told_of() -> None:
    platform = Platform()
    platform.book.open(request="req_1", route="/").close()
    assert platform.told.empty()


async def test_of_a_crowd_the_oldest_are_told() -> None:
    platform = Platform()
    crowd = [platform.book.open(request=str(n), route="/") for n in range(2 * MAX_TOLD)]
    for undertaking in crowd:
        undertaking.tell(1, total=2, unit="steps")
    await platform.hears()
    assert await platform.hears() == [(str(n), 1.0) for n in range(MAX_TOLD)]


@pytest.fixture
def line() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours.fileno()), theirs


WORK = Work(request="req_1", route="/v1/images/generations", done=3, total=8, unit="steps")


def test_a_report_of_work_tells_nothing_else(line: tuple[Channel, socket.socket]) -> None:
    channel, platform = line
    channel.tell_work([WORK])
    report = Report.model_validate_json(platform.recv(65536))
    assert report == Report(stage=Stage.READY, work=(WORK,))


def test_a_platform_that_does_not_listen_holds_up_nobody(line: tuple[Channel, socket.socket]) -> None:
    channel, platform = line
    for _ in range(100):  # far more than the buffer has room for
        channel.tell_work([WORK] * MAX_TOLD)
    platform.setblocking(False)
    heard = b""
    while data := _taken(platform):
        heard += data
    lines = heard.split(b"\n")
    assert lines.pop() == b"", "no line is cut"
    assert 0 < len(lines) < 100
    assert all(len(json.loads(line)["work"]) == MAX_TOLD for line in lines)


def test_a_platform_that_is_gone_is_no_trouble(line: tuple[Channel, socket.socket]) -> None:
    channel, platform = line
    platform.close()
    channel.tell_work([WORK])


def _taken(platform: socket.socket) -> bytes:
    try:
        return platform.recv(1 << 20)
    except BlockingIOError:
        return b""
