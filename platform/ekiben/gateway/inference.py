"""The routes that models answer: a table, those of dialects, and the one way that all of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ekiben.contract.model import TEXT_ABILITIES, Ability, ModelSpec
from ekiben.errors import InvalidRequest
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.pictures import Pictures
from ekiben.gateway.ports import CatalogPort
from ekiben.gateway.relay.prefixes import chat_prefixes, prompt_prefixes
from ekiben.gateway.relay.proxy import Job, Proxy
from ekiben.gateway.relay.target import FORM_TYPE, JSON_TYPE, read_target
from ekiben.gateway.routes import Route
from ekiben.plugins.dialects import Spoken


@dataclass(frozen=True, slots=True)
class InferenceRoute:
    """A path, the ability that a model needs for it, and the bodies that it takes."""

    path: str
    ability: Ability | None
    """None: that it reads text, in whatever way."""
    types: frozenset[str] = frozenset({JSON_TYPE})
    ends_with_done: bool = False
    """A stream is only whole with `[DONE]` at its end."""
    heartbeats: bool = False
    """A stream may begin before the model is there."""
    pictures: bool = False
    """Its answers may be asked for as URLs."""
    remembered: bool = False
    """Handled by the part that keeps what was answered."""
    prefixes: Callable[[bytes], tuple[int, ...]] | None = None
    """How its conversations are told apart, where engines keep their beginnings in memory."""


INFERENCE: Final = (
    InferenceRoute(
        "/v1/chat/completions", Ability.CHAT, ends_with_done=True, heartbeats=True, prefixes=chat_prefixes
    ),
    InferenceRoute(
        "/v1/completions", Ability.COMPLETE, ends_with_done=True, heartbeats=True, prefixes=prompt_prefixes
    ),
    InferenceRoute("/v1/responses", Ability.CHAT, heartbeats=True, remembered=True),
    InferenceRoute("/v1/responses/input_tokens", Ability.CHAT, remembered=True),
    InferenceRoute("/v1/embeddings", Ability.EMBED),
    InferenceRoute("/rerank", Ability.RERANK),
    InferenceRoute("/v1/rerank", Ability.RERANK),
    InferenceRoute("/v2/rerank", Ability.RERANK),
    InferenceRoute("/v1/moderations", Ability.MODERATE),
    InferenceRoute("/tokenize", None),
    InferenceRoute("/detokenize", None),
    InferenceRoute("/v1/tokenize", None),
    InferenceRoute("/v1/detokenize", None),
    InferenceRoute("/v1/audio/transcriptions", Ability.TRANSCRIBE, frozenset({FORM_TYPE})),
    InferenceRoute("/v1/audio/translations", Ability.TRANSLATE, frozenset({FORM_TYPE})),
    InferenceRoute("/v1/audio/speech", Ability.SPEAK),
    InferenceRoute("/v1/images/generations", Ability.GENERATE_IMAGE, heartbeats=True, pictures=True),
    InferenceRoute(
        "/v1/images/edits",
        Ability.EDIT_IMAGE,
        frozenset({JSON_TYPE, FORM_TYPE}),
        heartbeats=True,
        pictures=True,
    ),
    InferenceRoute("/v1/images/variations", Ability.EDIT_IMAGE, frozenset({FORM_TYPE}), pictures=True),
    InferenceRoute("/v1/images/ocr", Ability.READ_TEXT, frozenset({JSON_TYPE, FORM_TYPE})),
    InferenceRoute("/v1/images/classify", Ability.CLASSIFY, frozenset({JSON_TYPE, FORM_TYPE})),
    InferenceRoute("/v1/images/detect", Ability.DETECT, frozenset({JSON_TYPE, FORM_TYPE})),
)
CHAT_PATH: Final = "/v1/chat/completions"
PATHS: Final = frozenset(entry.path for entry in INFERENCE)


def dialect_entries(spoken: Iterable[Spoken]) -> list[InferenceRoute]:
    """The routes of dialects. A stream of theirs has an end of its own, which the replica writes."""
    return [
        InferenceRoute(
            route.path,
            route.ability,
            heartbeats=route.target == CHAT_PATH,
            prefixes=chat_prefixes if route.target == CHAT_PATH else None,
        )
        for voice in spoken
        for route in voice.routes
    ]


class Inference:
    """Makes the routes."""

    def __init__(
        self,
        *,
        catalog: CatalogPort,
        proxy: Proxy,
        max_body_bytes: int,
        spoken: Iterable[Spoken] = (),
        pictures: Pictures | None = None,
    ) -> None:
        self._pictures = pictures
        self._entries = [*INFERENCE, *dialect_entries(spoken)]
        self._catalog = catalog
        self._proxy = proxy
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        return [self._route(entry) for entry in self._entries if not entry.remembered]

    def _route(self, entry: InferenceRoute) -> Route:
        async def handle(exchange: Exchange, _: str) -> None:
            await self._serve(exchange, entry)

        return Route("POST", entry.path, handle)

    async def _serve(self, exchange: Exchange, entry: InferenceRoute) -> None:
        target, body = await read_target(exchange, types=entry.types, limit_bytes=self._max_body_bytes)
        try:
            exchange.watch()
            spec = self._catalog.spec(target.model)
            exchange.model = spec.name
            check_ability(spec, entry.ability)
            text = body.in_memory if entry.prefixes else None  # what is on disk is not read for this
            job = Job(
                path=entry.path,
                target=target,
                body=body,
                ends_with_done=entry.ends_with_done,
                heartbeats=entry.heartbeats,
                pictures=self._pictures if entry.pictures else None,
                prefix=partial(entry.prefixes, text) if entry.prefixes and text else None,
            )
            await self._proxy.forward(exchange, job)
        finally:
            body.close()


def check_ability(spec: ModelSpec, ability: Ability | None) -> None:
    """Said before anything is started: the model would only come up to say the same."""
    if not spec.abilities & (TEXT_ABILITIES if ability is None else {ability}):
        can, wanted = ", ".join(sorted(spec.abilities)), ability.value if ability else "read text"
        raise InvalidRequest(f"the model {spec.name!r} cannot {wanted}: it can {can}", param="model")
