"""`/v1/models`: the catalog as OpenAI clients expect it, cold models too."""

from __future__ import annotations

from typing import Any

from ekiben.fleet.types import FleetPort
from ekiben.gateway.answers import json_answer
from ekiben.gateway.exchange import Exchange
from ekiben.gateway.ports import CatalogPort, EntryView
from ekiben.gateway.routes import PARAMETER, Route


class ModelsPage:
    """Makes the routes."""

    def __init__(self, *, fleet: FleetPort, catalog: CatalogPort) -> None:
        self._fleet = fleet
        self._catalog = catalog

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/models", self._list),
            Route("GET", f"/v1/models/{PARAMETER}", self._one),
        ]

    async def _list(self, exchange: Exchange, _: str) -> None:
        states = {status.name: status.state.value for status in self._fleet.snapshot()}
        data = [_model(entry, states.get(entry.spec.name, "cold")) for entry in self._catalog.entries()]
        await exchange.answer(json_answer({"object": "list", "data": data}))

    async def _one(self, exchange: Exchange, name: str) -> None:
        entry = self._catalog.get(name)
        state = self._fleet.status(entry.spec.name).state.value
        await exchange.answer(json_answer(_model(entry, state)))


def _model(entry: EntryView, state: str) -> dict[str, Any]:
    return {
        "id": entry.spec.name,
        "object": "model",
        "created": int(entry.created_at.timestamp()),
        "owned_by": "ekiben",
        "state": state,
        "family": entry.spec.family.value,
        "abilities": sorted(entry.spec.abilities),
    }
