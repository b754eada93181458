"""Ends exchanges in which nothing moves: one sweep for all of them instead of timers for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ekiben.clock import Clock
from ekiben.errors import EkibenError, EngineTimeout, RequestTimeout
from ekiben.gateway.http.exchange import Exchange, Moves


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for whom. Requests that wait for a model have a budget of their own."""

    body_s: float = 30.0
    """Until a request's body must be there, plus what its size takes at `body_bytes_per_s`."""
    body_bytes_per_s: float = 16 * 1024
    client_s: float = 300.0
    """A client that does not read its answer is given up after so long."""
    replica_s: float = 300.0
    """A replica that has begun an answer and falls silent is given up after so long."""
    sweep_s: float = 1.0


DEFAULT_PATIENCE: Final = Patience()


class Watchdog:
    """Knows all exchanges under way."""

    def __init__(self, patience: Patience, clock: Clock) -> None:
        self._patience = patience
        self._clock = clock
        self.exchanges: set[Exchange] = set()

    def sweep(self) -> None:
        """Expire what has stood still for too long."""
        now = self._clock.monotonic()
        for exchange in list(self.exchanges):
            if exchange.ended_by is None and (error := self._verdict(exchange, now)):
                exchange.end(error)

    def _verdict(self, exchange: Exchange, now: float) -> EkibenError | None:
        patience = self._patience
        match exchange.waits_for:
            case Moves.BODY:
                allowed_s = patience.body_s + exchange.received_bytes / patience.body_bytes_per_s
                if now - exchange.started_at > allowed_s:
                    return RequestTimeout("the request's body did not arrive in time: send it faster")
            case Moves.CLIENT:
                if now - exchange.moved_at > patience.client_s:
                    return RequestTimeout("the client did not read its answer")
            case Moves.REPLICA:
                if now - exchange.moved_at > patience.replica_s:
                    exchange.look_again()
                if now - exchange.moved_at > patience.replica_s:
                    return EngineTimeout(
                        f"the model sent nothing for {patience.replica_s:g} s in the middle of its answer"
                    )
            case Moves.NOBODY:
                pass
        return None
