"""The head of an answer and the first bytes of its body leave together, and nothing is lost or reordered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from ekiben.gateway.http.transport import JoiningTransport


class Wire(asyncio.Transport):
    """Keeps each write apart."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.ended = ""

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return f"the {name}"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def joining(wire: Wire) -> JoiningTransport:
    return JoiningTransport(wire, asyncio.get_running_loop())


async def turn() -> None:
    """One turn of the loop."""
    await asyncio.sleep(0)


async def test_head_and_body_are_one_write(wire: Wire, joining: JoiningTransport) -> None:
    joining.expect_head()
    joining.write(b"head ")
    assert wire.writes == []
    joining.write(b"body")
    joining.write(b" and more")
    await turn()
    assert wire.writes == [b"head body", b" and more"]


async def test_a_head_alone_leaves_at_the_end_of_the_turn(wire: Wire, joining: JoiningTransport) -> None:
    joining.expect_head()
    joining.write(b"head")
    await turn()
    joining.write(b"body")
    assert wire.writes == [b"head", b"body"]


async def test_without_a_head_nothing_waits(wire: Wire, joining: JoiningTransport) -> None:
    joining.write(b"body")
    assert wire.writes == [b"body"]


async def test_closing_sends_what_waits_and_aborting_drops_it(wire: Wire, joining: JoiningTransport) -> None:
    joining.expect_head()
    joining.write(b"head")
    joining.close()
    assert (wire.writes, wire.ended, joining.is_closing()) == ([b"head"], "closed", True)
    joining.expect_head()
    joining.write(b"another")
    joining.abort()
    await turn()
    assert (wire.writes, wire.ended) == ([b"head"], "aborted")


async def test_it_knows_what_the_transport_knows(joining: JoiningTransport) -> None:
    assert joining.get_extra_info("peername") == "the peername"
