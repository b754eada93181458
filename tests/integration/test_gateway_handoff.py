"""Events that go straight from a replica to the client: the same bytes, the same errors, nothing left."""

from __future__ import annotations

import asyncio
import random
import socket
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ekiben.gateway.http.watchdog import Patience
from ekiben.runtime.process.handoff import HandedOff, Handoffs
from tests.integration.gateway_lab import (
    CHUNKED_END,
    DONE,
    PATIENCE_S,
    SSE_HEAD,
    Client,
    Lab,
    Response,
    Script,
    Seen,
    chat_body,
    chunked,
    delta,
    running_lab,
    until,
)

PACE_S = 0.002
EVENTS = [delta(f"{number} 🍱") for number in range(40)]
WHOLE = b"".join(EVENTS) + DONE


class Straight:
    """What a replica does that takes the connections of clients."""

    def __init__(self, folder: Path) -> None:
        self.handoffs = Handoffs()
        self.handoffs.begin(folder / "replica.sock")
        self.straight = self.relayed = 0

    async def send(self, stream: HandedOff, writer: asyncio.StreamWriter, event: bytes) -> None:
        if await stream.write(event):
            self.straight += 1
        else:
            self.relayed += 1
            stream.relayed(len(event))
            writer.write(chunked(event))
            await writer.drain()

    def script(
        self,
        events: Iterable[bytes],
        *,
        pace: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(PACE_S),
        then: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None,
    ) -> Script:
        """Each event after a pause, and the end of the answer; or what `then` does instead."""

        async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
            token = seen.headers["x-ekiben-handoff"].encode()
            stream = self.handoffs.open(token)
            try:
                writer.write(SSE_HEAD)
                for event in events:
                    await pace()
                    await self.send(stream, writer, event)
                if then is not None:
                    await then(writer)
                    return
                await self.send(stream, writer, DONE)
            finally:
                self.handoffs.end(token)
            writer.write(CHUNKED_END)

        return script


@asynccontextmanager
async def straight_lab(patience: Patience | None = None) -> AsyncIterator[tuple[Lab, Straight]]:
    async with running_lab(patience=patience) as lab:
        straight = Straight(lab.fleet.folder)
        try:
            yield lab, straight
        finally:
            straight.handoffs.close()


async def ask(client: Client) -> Response:
    await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
    async with asyncio.timeout(PATIENCE_S):
        return await client.response()


async def test_most_events_go_straight_and_the_connection_is_used_again() -> None:
    async with straight_lab() as (lab, straight):
        lab.replica.script = straight.script(EVENTS)
        client = await lab.client()
        for _ in range(3):
            response = await ask(client)
            assert not response.cut
            assert response.body == WHOLE
        assert straight.straight > straight.relayed
        client.hang_up()


@pytest.mark.parametrize("seed", range(8))
async def test_no_event_overtakes_another(seed: int) -> None:
    """Some come in bursts, so that the connection comes while others are on their way."""
    lots = random.Random(seed)

    async def pace() -> None:
        for _ in range(lots.choice((0, 0, 1, 2, 3, 5))):
            await asyncio.sleep(0)

    async with straight_lab() as (lab, straight):
        lab.replica.script = straight.script(EVENTS * 5, pace=pace)
        client = await lab.client()
        assert (await ask(client)).body == b"".join(EVENTS * 5) + DONE
        client.hang_up()


async def test_a_slow_client_is_waited_for_by_the_gateway() -> None:
    async with straight_lab() as (lab, straight):
        events = [*EVENTS, *(delta(f"{number}" + "x" * 2000) for number in range(8000))]
        lab.replica.script = straight.script(
            events, pace=lambda: asyncio.sleep(0 if straight.straight > 10 else PACE_S)
        )
        client = await lab.client()
        await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
        sent = -1
        async with asyncio.timeout(PATIENCE_S):
            while (now := straight.straight + straight.relayed) != sent:
                sent = now
                await asyncio.sleep(0.2)
        assert len(EVENTS) < sent < len(events)
        assert straight.relayed > 2
        async with asyncio.timeout(PATIENCE_S):
            assert (await client.response()).body == b"".join(events) + DONE
        client.hang_up()


async def test_a_replica_that_breaks_off_is_told_of() -> None:
    async def break_off(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with straight_lab() as (lab, straight):
        lab.replica.script = straight.script(EVENTS, then=break_off)
        response = await lab.chat(stream=True)
        assert response.body.startswith(b"".join(EVENTS))
        assert b'"code":"replica_died"' in response.body.removeprefix(b"".join(EVENTS))
        assert straight.straight > straight.relayed


async def test_an_answer_without_its_end_is_told_of() -> None:
    async def end(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED_END)

    async with straight_lab() as (lab, straight):
        lab.replica.script = straight.script(EVENTS, then=end)
        response = await lab.chat(stream=True)
        assert response.body.startswith(b"".join(EVENTS))
        assert b'"code":"replica_died"' in response.body
        assert straight.straight > straight.relayed


async def test_who_cancels_is_told_and_the_connection_ends_though_the_replica_has_it() -> None:
    """A replica that hangs may hold the connection for ever, and must not be able to write to it."""
    held: list[socket.socket] = []

    async with straight_lab() as (lab, straight):
        stream = HandedOff()

        async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
            straight.handoffs._streams[seen.headers["x-ekiben-handoff"].encode()] = stream
            writer.write(SSE_HEAD)
            while not straight.straight:
                await asyncio.sleep(PACE_S)
                await straight.send(stream, writer, delta("a"))
            assert stream._client is not None
            held.append(stream._client)
            await asyncio.Event().wait()

        lab.replica.script = script
        client = await lab.client()
        await client.send(
            "POST", "/v1/chat/completions", chat_body(stream=True), {"x-request-id": "held-one"}
        )
        await until(lambda: bool(held))
        assert (await lab.ask("POST", "/api/requests/held-one/cancel")).status in (200, 202, 204)
        async with asyncio.timeout(PATIENCE_S):
            response = await client.response()
            assert b'"error"' in response.body
            assert await client.dropped()
        with pytest.raises(OSError):
            held[0].send(b"more")
        stream.close()
        client.hang_up()


async def test_a_replica_is_given_up_for_its_silence_and_not_for_what_the_gateway_does_not_see() -> None:
    async with straight_lab(Patience(replica_s=0.3, sweep_s=0.05)) as (lab, straight):

        async def hang(writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        lab.replica.script = straight.script(EVENTS, pace=lambda: asyncio.sleep(0.03), then=hang)
        response = await lab.chat(stream=True)
        assert response.body.startswith(b"".join(EVENTS))
        assert b'"code":"engine_timeout"' in response.body
        assert straight.straight > straight.relayed


@pytest.mark.parametrize("politely", [True, False])
async def test_leaving_cancels(politely: bool) -> None:
    async with straight_lab() as (lab, straight):
        lab.replica.script = straight.script(EVENTS * 1000)
        client = await lab.client()
        await client.send("POST", "/v1/chat/completions", chat_body(stream=True))
        await until(lambda: straight.straight > 10)
        client.writer.close() if politely else client.hang_up()
        async with asyncio.timeout(PATIENCE_S):
            await lab.replica.seen[0].closed.wait()
            await lab.settled()


@pytest.mark.parametrize(
    "event",
    [
        DONE,
        delta("last") + DONE,
        b'data: {"error": {"message": "no"}}\n\n',
        b'event: error\ndata: {"type": "error"}\n\n',
        delta("x" * 5000),
        delta("half")[:-1],
    ],
)
async def test_what_the_gateway_must_see_is_relayed(event: bytes) -> None:
    here, there = socket.socketpair()
    stream = HandedOff()
    stream.relayed(7)
    stream.take(there, passed_bytes=7)
    assert not await stream.write(event)
    assert here.recv(100) == b""  # and so is all that follows
    here.close()


async def test_what_is_nobodys_is_closed() -> None:
    """A connection comes when its answer has ended, or twice, or with nonsense."""
    async with straight_lab() as (lab, straight):
        stream = straight.handoffs.open(b"known")
        here, there = socket.socketpair()
        to = str(lab.fleet.folder / "handoff.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as post:
            for said in (b"known 0", b"known 0", b"unknown 0", b"known", b"known x", b""):
                descriptors = array("i", [there.fileno()])
                post.sendmsg([said], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)], 0, to)
        there.close()
        await until(lambda: stream._client is not None)
        assert await stream.write(b"data: 1\n\n")
        assert here.recv(100) == b"9\r\ndata: 1\n\n\r\n"
        straight.handoffs.end(b"known")
        assert here.recv(100) == b""  # nobody has it any more
        here.close()


async def test_a_replica_that_takes_no_connections_is_relayed() -> None:
    async with running_lab() as lab:
        straight = Straight.__new__(Straight)
        straight.handoffs, straight.straight, straight.relayed = Handoffs(), 0, 0
        lab.replica.script = straight.script(EVENTS)
        client = await lab.client()
        for _ in range(2):
            assert (await ask(client)).body == WHOLE
        assert straight.straight == 0
        client.hang_up()
