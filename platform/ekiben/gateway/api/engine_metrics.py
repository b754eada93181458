"""The metrics of running replicas, for whoever reads the platform's.

Replicas are asked past the fleet: reading starts, wakes and keeps alive nothing. Who is not ready, is slow or
talks nonsense is left out.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ekiben.fleet.types import Address, FleetPort, ReplicaStatus, State
from ekiben.gateway.http.body import Body
from ekiben.gateway.relay.upstream import Connection, Unreachable, UpstreamLost, Upstreams
from ekiben.telemetry.exposition import Exposition

PATIENCE_S: Final = 1.0
"""For each replica; they are asked at the same time."""
MAX_BYTES: Final = 2**20
"""Who has more to say is left out."""
_HEAD: Final = b"GET /metrics HTTP/1.1\r\nhost: replica\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_OK: Final = 200


class EngineMetrics:
    """Asks each replica that is ready."""

    def __init__(self, *, fleet: FleetPort, upstreams: Upstreams) -> None:
        self._fleet = fleet
        self._upstreams = upstreams

    async def read(self, own: bytes) -> bytes:
        """The platform's `own`, and the replicas' with the labels `model` and `replica`."""
        replicas = [
            replica
            for model in self._fleet.snapshot()
            for replica in model.replicas
            if replica.state is State.READY
        ]
        texts = await asyncio.gather(*map(self._ask, replicas))
        exposition = Exposition(own)
        for replica, text in zip(replicas, texts, strict=True):
            exposition.add(text, {"model": replica.model, "replica": replica.id})
            await asyncio.sleep(0)  # requests have their turn between two replicas
        return exposition.render()

    async def _ask(self, replica: ReplicaStatus) -> str:
        """Its metrics, or nothing."""
        scheme, _, location = replica.address.partition("://")
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._upstreams.connect(Address(scheme, location))
                try:
                    return await _answer(connection)
                finally:
                    connection.abort()
        except (Unreachable, UpstreamLost, TimeoutError, UnicodeDecodeError):
            return ""


async def _answer(connection: Connection) -> str:
    await connection.request(_HEAD, Body(b""))
    await connection.response()
    text = bytearray()
    while len(text) <= MAX_BYTES and (data := await connection.read()):
        text += data
    return text.decode() if connection.status == _OK and len(text) <= MAX_BYTES else ""
