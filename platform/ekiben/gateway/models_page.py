"""`/v1/models`: the catalog as OpenAI clients expect it, cold models too.

Everything that clients may name is a model to them: models, their adapters (`parent`), and the aliases that
users have set (`alias_of`). Other spellings that a spec gives are understood, and not listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ekiben.fleet.types import FleetPort
from ekiben.gateway.http.answers import json_answer
from ekiben.gateway.http.exchange import Exchange
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
        await exchange.answer(json_answer({"object": "list", "data": list(self._all())}))

    async def _one(self, exchange: Exchange, name: str) -> None:
        entry, meant = self._catalog.get(name), self._catalog.meaning(name)
        model = _model(entry, self._fleet.status(entry.spec.name).state.value)
        if entry.spec.adapter_of(meant) is not None:
            model = _adapter(model, meant)
        await exchange.answer(json_answer(model if meant == name else _alias(model, name)))

    def _all(self) -> Iterator[dict[str, Any]]:
        states = {status.name: status.state.value for status in self._fleet.snapshot()}
        known: dict[str, dict[str, Any]] = {}
        for entry in self._catalog.entries():
            name = entry.spec.name
            known[name] = model = _model(entry, states.get(name, "cold"))
            for adapter in sorted(entry.spec.adapters):
                known[f"{name}:{adapter}"] = _adapter(model, f"{name}:{adapter}")
        yield from known.values()
        for alias in self._catalog.aliases():
            if (model_of_alias := known.get(alias.model)) is not None:
                yield _alias(model_of_alias, alias.name)


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


def _adapter(model: dict[str, Any], name: str) -> dict[str, Any]:
    return model | {"id": name, "parent": model["id"]}


def _alias(model: dict[str, Any], name: str) -> dict[str, Any]:
    return model | {"id": name, "alias_of": model["id"]}
