"""`/api`: the platform about itself, and what can be told to it. JSON in, JSON out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from ekiben.catalog.adapters import adapter_name, look_at_adapter, with_adapter, without_adapter
from ekiben.catalog.choice import Choice, as_json
from ekiben.catalog.inspect import spec_from_path
from ekiben.catalog.parcel import sources_of
from ekiben.catalog.specs import parse_spec
from ekiben.contract.model import AUTO, ModelSpec
from ekiben.errors import ConfigError, Conflict, DatabaseFailed, InvalidRequest, NotFound, PermissionDenied
from ekiben.fleet.types import FleetPort, ModelStatus
from ekiben.gateway.api.log_tail import DEFAULT_LINES, MAX_LINES, tail
from ekiben.gateway.door import is_loopback
from ekiben.gateway.http.answers import TEXT, Answer, json_answer
from ekiben.gateway.http.body import read_body
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.ports import CatalogPort, EntryView
from ekiben.gateway.relay.target import JSON_TYPE, check_type
from ekiben.gateway.routes import PARAMETER, Route
from ekiben.plugins.discovery import Plugin, Plugins
from ekiben.settings import LoadedSettings

MAX_SPEC_BYTES: Final = 2**20
REDACTED: Final = "********"

Bring: TypeAlias = Callable[..., Awaitable[ModelStatus]]
Explain: TypeAlias = Callable[[ModelSpec], Choice]


class Api:
    """Makes the routes."""

    def __init__(
        self,
        *,
        fleet: FleetPort,
        catalog: CatalogPort,
        plugins: Plugins,
        settings: LoadedSettings,
        explain: Explain | None = None,
    ) -> None:
        """`explain`: which variant of a model would run, and why; None: that is not told."""
        self._explain = explain
        self._fleet = fleet
        self._catalog = catalog
        self._plugins = plugins
        self._settings = settings

    def routes(self) -> list[Route]:
        model = f"/api/models/{PARAMETER}"
        return [
            Route("GET", "/api/models", self._list_models),
            Route("POST", "/api/models", self._add_model),
            Route("GET", model, self._show_model),
            Route("DELETE", model, self._remove_model),
            Route("GET", f"{model}/fit", self._fit),
            Route("POST", f"{model}/load", self._load),
            Route("POST", f"{model}/pull", self._pull),
            Route("POST", f"{model}/stop", self._stop),
            Route("GET", f"{model}/log", self._model_log),
            Route("GET", "/api/replicas", self._list_replicas),
            Route("GET", f"/api/replicas/{PARAMETER}/log", self._replica_log),
            Route("GET", "/api/engines", self._list_engines),
            Route("GET", "/api/config", self._config),
        ]

    # Models

    async def _list_models(self, exchange: Exchange, _: str) -> None:
        statuses = {status.name: status for status in self._fleet.snapshot()}
        entries = [e for e in self._catalog.entries() if e.spec.name in statuses]
        choices = await asyncio.to_thread(lambda: [self._choice(e.spec) for e in entries])
        models = [
            _model(e, statuses[e.spec.name]) | choice for e, choice in zip(entries, choices, strict=True)
        ]
        broken = [{"name": model.name, "reason": model.reason} for model in self._catalog.broken()]
        await exchange.answer(json_answer({"models": models, "broken": broken}))

    async def _show_model(self, exchange: Exchange, name: str) -> None:
        entry = self._entry(exchange, name)
        choice = await asyncio.to_thread(self._choice, entry.spec)
        await exchange.answer(json_answer(_model(entry, self._fleet.status(entry.spec.name)) | choice))

    def _choice(self, spec: ModelSpec) -> dict[str, Any]:
        """Looks at the disk."""
        return {} if self._explain is None else {"choice": as_json(self._explain(spec))}

    async def _fit(self, exchange: Exchange, name: str) -> None:
        entry = self._entry(exchange, name)
        exchange.watch()
        await exchange.answer(json_answer(asdict(await self._fleet.fit(entry.spec.name))))

    async def _add_model(self, exchange: Exchange, _: str) -> None:
        request = await read_json(exchange)
        replace = request.pop("replace", False)
        if not isinstance(replace, bool):
            raise InvalidRequest("'replace' must be true or false", param="replace")
        local = is_loopback(exchange.client_host)
        try:
            entry = await asyncio.to_thread(self._enter, request, replace=replace, local=local)
        except DatabaseFailed:
            raise
        except ConfigError as error:
            raise InvalidRequest(error.message, code=ConfigError.code) from None
        name = entry.spec.name
        if replace or "adapter_of" in request:
            self._fleet.replaced(name)
        self._fleet.changed(name)
        await exchange.answer(json_answer(_model(entry, self._fleet.status(name)), status=201))

    async def _remove_model(self, exchange: Exchange, name: str) -> None:
        if self._catalog.meaning(name) != name:
            raise Conflict(f"{name!r} is an alias: remove it with DELETE /api/aliases/{name}")
        if all(model.name != name for model in self._catalog.broken()):
            entry = self._entry(exchange, name)
            if (adapter := entry.spec.adapter_of(name)) is not None:
                await self._remove_adapter(exchange, entry.spec.name, adapter)
                return
            name = entry.spec.name
            if entry.origin == "builtin":
                raise Conflict(f"the model {name!r} is built in: only added models can be removed")
            await self._fleet.forget(name)
        await asyncio.to_thread(self._catalog.remove, name)
        self._fleet.changed(name)
        await exchange.answer(json_answer({"name": name, "removed": True}))

    async def _remove_adapter(self, exchange: Exchange, base: str, adapter: str) -> None:
        await asyncio.to_thread(self._catalog.amend, base, lambda spec: without_adapter(spec, adapter))
        self._fleet.replaced(base)
        self._fleet.changed(base)
        await exchange.answer(json_answer({"name": f"{base}:{adapter}", "removed": True}))

    def _enter(self, request: dict[str, Any], *, replace: bool, local: bool) -> EntryView:
        """Put what a request brings into the catalog: a model, or an adapter of one."""
        match request:
            case {"adapter_of": str(base), "path": str(path), **rest} if rest.keys() <= {"name"} and _is_name(
                rest.get("name")
            ):
                _only_local(local)
                return self._add_adapter(base, Path(path), rest.get("name"), replace=replace)
        return self._catalog.add(self._spec_of(request, local=local), replace=replace)

    def _add_adapter(self, base: str, path: Path, name: str | None, *, replace: bool) -> EntryView:
        adapter = look_at_adapter(path)
        own_name = adapter_name(path) if name is None else name

        def change(spec: ModelSpec) -> ModelSpec:
            return with_adapter(spec, own_name, adapter, plugins=self._plugins, replace=replace)

        return self._catalog.amend(base, change)

    def _spec_of(self, request: dict[str, Any], *, local: bool) -> ModelSpec:
        """The spec that a request to add a model describes, in one of three ways."""
        match request:
            case {"yaml": str(text), **rest} if not rest:
                spec = parse_spec(text, filename="request", plugins=self._plugins)
            case {"spec": dict(value), **rest} if not rest:
                text = msgspec.json.encode(value).decode()
                spec = parse_spec(text, filename="request", plugins=self._plugins)
            case {"path": str(path), **rest} if rest.keys() <= {"name"} and _is_name(rest.get("name")):
                _only_local(local)
                spec = spec_from_path(Path(path), plugins=self._plugins, name=rest.get("name"))
            case _:
                raise InvalidRequest(
                    'send one of {"yaml": "..."}, {"spec": {...}} or {"path": "...", "name": "..."}, '
                    'the last with "adapter_of": "..." for an adapter'
                )
        if any(source.kind == "local" for variant in spec.variants for source in sources_of(variant)):
            _only_local(local)
        return spec

    async def _load(self, exchange: Exchange, name: str) -> None:
        given = {what: exchange.query(what) for what in ("engine", "quantization")}
        orders = {what: value for what, value in given.items() if value is not None}
        if orders:
            await self._prefer(self._entry(exchange, name).spec, orders)
        await self._bring(exchange, name, self._fleet.load)

    async def _prefer(self, spec: ModelSpec, orders: Mapping[str, str]) -> None:
        """Keep what a user wants of the choice among variants; `auto` leaves it to the platform again."""
        wanted = {what: None if value == AUTO else value for what, value in orders.items()}

        def change(spec: ModelSpec) -> ModelSpec:
            return spec.model_copy(update={"prefer": spec.prefer.model_copy(update=wanted)})

        if change(spec) == spec:
            return
        try:
            entry = await asyncio.to_thread(self._catalog.amend, spec.name, change)
        except DatabaseFailed:
            raise
        except ConfigError as error:
            raise InvalidRequest(error.message, code=ConfigError.code) from None
        self._fleet.replaced(entry.spec.name)
        self._fleet.changed(entry.spec.name)

    async def _pull(self, exchange: Exchange, name: str) -> None:
        await self._bring(exchange, name, self._fleet.pull)

    async def _bring(self, exchange: Exchange, name: str, bring: Bring) -> None:
        entry = self._entry(exchange, name)
        wait_s = _number(exchange, "wait_s", maximum=86_400)
        exchange.watch()
        status = await bring(entry.spec.name, wait_s=wait_s)
        await exchange.answer(json_answer(_model(entry, status)))

    async def _stop(self, exchange: Exchange, name: str) -> None:
        entry = self._entry(exchange, name)
        exchange.watch()
        status = await self._fleet.stop(entry.spec.name)
        await exchange.answer(json_answer(_model(entry, status)))

    def _entry(self, exchange: Exchange, name: str) -> EntryView:
        entry = self._catalog.get(name)
        exchange.model = entry.spec.name
        return entry

    # Logs

    async def _model_log(self, exchange: Exchange, name: str) -> None:
        await self._send_log(exchange, self._entry(exchange, name).spec.name)

    async def _replica_log(self, exchange: Exchange, replica_id: str) -> None:
        for status in self._fleet.snapshot():
            if any(replica.id == replica_id for replica in status.replicas):
                await self._send_log(exchange, status.name)
                return
        raise NotFound(f"there is no replica {replica_id[:60]!r}: see GET /api/replicas")

    async def _send_log(self, exchange: Exchange, model: str) -> None:
        lines = _number(exchange, "tail", maximum=MAX_LINES)
        path = self._fleet.log_path(model)
        text = await asyncio.to_thread(tail, path, int(DEFAULT_LINES if lines is None else lines))
        await exchange.answer(Answer(text, content_type=TEXT))

    # The rest

    async def _list_replicas(self, exchange: Exchange, _: str) -> None:
        replicas = [asdict(r) for status in self._fleet.snapshot() for r in status.replicas]
        zygotes = [asdict(zygote) for zygote in self._fleet.zygotes()]
        memory = {
            device: {"budget_bytes": budget_bytes, "held_bytes": held_bytes}
            for device, (budget_bytes, held_bytes) in self._fleet.memory().items()
        }
        await exchange.answer(json_answer({"replicas": replicas, "zygotes": zygotes, "memory": memory}))

    async def _list_engines(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(json_answer(await asyncio.to_thread(self._engines)))

    def _engines(self) -> dict[str, Any]:
        broken = [
            {"id": b.id, "distribution": b.distribution, "reason": b.reason} for b in self._plugins.broken
        ]
        return {
            "engines": [_engine(plugin, self._plugins) for plugin in self._plugins.engines().values()],
            "broken": broken,
        }

    async def _config(self, exchange: Exchange, _: str) -> None:
        values = self._settings.values
        plain = values.model_dump(mode="json")
        settings = [
            {
                "name": name,
                "value": REDACTED if name == "api_key" and values.api_key is not None else plain[name],
                "origin": self._settings.origins[name],
                "description": field.description,
            }
            for name, field in type(values).model_fields.items()
        ]
        await exchange.answer(json_answer({"settings": settings}))


def _model(entry: EntryView, status: ModelStatus) -> dict[str, Any]:
    return asdict(status) | {
        "abilities": sorted(entry.spec.abilities),
        "aliases": list(entry.spec.aliases),
        "origin": entry.origin,
        "problem": entry.problem,
        "created_at": entry.created_at.isoformat(),
        "spec": entry.spec.model_dump(mode="json"),
    }


def _engine(plugin: Plugin, plugins: Plugins) -> dict[str, Any]:
    manifest, standing = plugin.manifest, plugins.standing(plugin)
    section = manifest.engine
    return {
        "id": manifest.id,
        "name": manifest.name,
        "summary": manifest.summary,
        "version": plugin.version,
        "distribution": plugin.distribution,
        "installed": standing.ready,
        "missing": list(standing.missing),
        "problem": standing.problem,
        "environment": str(standing.folder) if standing.folder is not None else None,
        "families": list(section.families) if section else [],
        "abilities": list(section.abilities) if section else [],
        "formats": list(section.formats) if section else [],
    }


async def read_json(exchange: Exchange) -> dict[str, Any]:
    """The body as a JSON object, within bounds. Raises InvalidRequest and what a broken body deserves."""
    check_type(exchange, frozenset({JSON_TYPE}))
    body = await read_body(exchange, limit_bytes=MAX_SPEC_BYTES)
    try:
        value = msgspec.json.decode(body.view())
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    finally:
        body.close()
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _is_name(value: object) -> bool:
    return value is None or isinstance(value, str)


def _only_local(local: bool) -> None:
    if not local:
        raise PermissionDenied("files of this machine can only be added from this machine")


def _number(exchange: Exchange, name: str, *, maximum: float) -> float | None:
    text = exchange.query(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= maximum:
        raise InvalidRequest(f"{name!r} must be a number from 0 to {maximum:g}", param=name)
    return value
