"""Hands the connection of a client to the replica, which sends it the events of a stream itself.

A gateway that relays every event takes a wait, a read and a write for each, which is most of what it does
when many stream. So once a stream flows, its replica gets the client's connection, as a file descriptor
over a unix socket, with the number of bytes that the client has. It goes on by itself if that is all it
has sent, and otherwise leaves it (`ekiben.runtime.process.handoff`). Head and end of the answer, errors,
and whatever a slow client makes wait go through the gateway as ever, and it is the gateway that notices
when the client leaves.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from ekiben.fleet.types import Address
from ekiben.gateway.http.transport import DirectBody
from ekiben.gateway.relay.event_stream import EventStream
from ekiben.gateway.relay.upstream import Upstreams
from ekiben.runtime.protocol import HANDOFF_HEADER, Passed

FIRST_TRY: Final = 2
"""After so many pieces: an answer that is over by then is not worth it."""
TRY_AGAIN: Final = 8
"""One that was refused, or given back, is offered again after so many times as many."""


class Handoff:
    """Of one stream. `passed` after each piece that was sent on, `end` when no more will come."""

    def __init__(self, upstreams: Upstreams, address: Address, client: DirectBody) -> None:
        """`address`: a unix socket."""
        self._upstreams = upstreams
        self._address = address
        self._client = client
        self._token = os.urandom(12).hex().encode()
        self._pieces = self._bytes = 0
        self._next = FIRST_TRY
        self._planned: asyncio.Handle | None = None

    @property
    def header(self) -> bytes:
        """A line of the request's head."""
        return HANDOFF_HEADER + b": " + self._token

    def passed(self, size: int, stream: EventStream) -> None:
        """So many bytes more have come from the replica."""
        self._bytes += size
        self._pieces += 1
        if self._pieces == self._next:
            self._next *= TRY_AGAIN
            # Not before what was just written is on its way.
            self._planned = asyncio.get_running_loop().call_soon(self._hand_over, stream)

    def end(self, *, whole: bool) -> None:
        """`whole`: the replica has ended the answer, and so let go of the connection."""
        if self._planned is not None:
            self._planned.cancel()
        if whole:
            self._client.take_back()
        else:
            self._client.give_up()

    def _hand_over(self, stream: EventStream) -> None:
        client = self._client
        if not client.open or not stream.whole or (connection := client.lend()) is None:
            return
        if not self._upstreams.hand_over(self._address, connection, Passed(self._token, self._bytes)):
            client.take_back()
