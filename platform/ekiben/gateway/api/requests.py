"""`/api/requests`: the requests to models that are under way, and the way to end one by its id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ekiben.errors import NotFound, RequestCancelled
from ekiben.gateway.http.answers import json_answer
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.routes import PARAMETER, Route


class Requests:
    """Makes the routes. `exchanges`: all that are under way."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self._exchanges = exchanges

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/requests", self._list),
            Route("POST", f"/api/requests/{PARAMETER}/cancel", self._cancel),
        ]

    def _to_models(self) -> Iterator[Exchange]:
        """What is asked of the platform about itself is nobody's to cancel."""
        return (each for each in self._exchanges if each.model and not each.route.startswith("/api/"))

    async def _list(self, exchange: Exchange, _: str) -> None:
        oldest_first = sorted(self._to_models(), key=lambda each: each.started_at)
        requests = [
            {
                "id": each.id,
                "route": each.route,
                "model": each.model,
                "age_s": round(each.age_s, 3),
                "answering": each.status != 0,
            }
            for each in oldest_first
        ]
        await exchange.answer(json_answer({"requests": requests}))

    async def _cancel(self, exchange: Exchange, request_id: str) -> None:
        """Clients may choose their ids, so there may be several of the same."""
        meant = [each for each in self._to_models() if each.id == request_id]
        if not meant:
            raise NotFound(f"there is no request {request_id[:64]!r} under way: see GET /api/requests")
        for each in meant:
            each.end(RequestCancelled(f"the request {each.id} was cancelled by its id"))
        await exchange.answer(json_answer({"id": request_id, "cancelled": len(meant)}))
