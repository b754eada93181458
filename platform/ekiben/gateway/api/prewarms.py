"""`/api/prewarms`: what was started ahead of its requests, and what came of it."""

from __future__ import annotations

from typing import Any, Final, Protocol

from ekiben.gateway.http.answers import json_answer
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.routes import Route


class PrewarmView(Protocol):
    def as_json(self) -> dict[str, Any]:
        """The last starts ahead, newest first, and the patterns that are believed."""


class NoPrewarms:
    """Where nothing is started ahead."""

    def as_json(self) -> dict[str, Any]:
        return {"prewarms": [], "patterns": []}


NO_PREWARMS: Final = NoPrewarms()


class Prewarms:
    """Makes the route."""

    def __init__(self, view: PrewarmView) -> None:
        self._view = view

    def routes(self) -> list[Route]:
        return [Route("GET", "/api/prewarms", self._list)]

    async def _list(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(json_answer(self._view.as_json()))
