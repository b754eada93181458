"""`/api/aliases`: names that users gave to models."""

from __future__ import annotations

import asyncio
from typing import Any

from ekiben.errors import ConfigError, DatabaseFailed, InvalidRequest
from ekiben.gateway.api.routes import read_json
from ekiben.gateway.http.answers import json_answer
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.ports import AliasView, CatalogPort
from ekiben.gateway.routes import PARAMETER, Route


class Aliases:
    """Makes the routes."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/api/aliases", self._list),
            Route("PUT", f"/api/aliases/{PARAMETER}", self._set),
            Route("DELETE", f"/api/aliases/{PARAMETER}", self._remove),
        ]

    async def _list(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(json_answer({"aliases": [_alias(each) for each in self._catalog.aliases()]}))

    async def _set(self, exchange: Exchange, name: str) -> None:
        request = await read_json(exchange)
        match request:
            case {"model": str(model), **rest} if not rest:
                pass
            case _:
                raise InvalidRequest(
                    'send {"model": "..."}, the name that the alias stands for', param="model"
                )
        try:
            alias = await asyncio.to_thread(self._catalog.set_alias, name, model=model)
        except DatabaseFailed:
            raise
        except ConfigError as error:
            raise InvalidRequest(error.message, code=ConfigError.code) from None
        await exchange.answer(json_answer(_alias(alias)))

    async def _remove(self, exchange: Exchange, name: str) -> None:
        await asyncio.to_thread(self._catalog.remove_alias, name)
        await exchange.answer(json_answer({"name": name, "removed": True}))


def _alias(alias: AliasView) -> dict[str, Any]:
    return {"name": alias.name, "model": alias.model, "created_at": alias.created_at.isoformat()}
