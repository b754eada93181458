"""Which of the OpenAI routes a model has, and what to say of those that it has not.

The routes themselves are in the modules of the abilities. Those need libraries that belong to the
engines, so a replica imports only the modules that its model needs, and knows of the others' paths
from the table here.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from ekiben.contract.model import TEXT_ABILITIES, Ability, ModelSpec
from ekiben.errors import EkibenError, InvalidRequest, MethodNotAllowed, NotFound
from ekiben.runtime.http import Route

ABILITIES_OF_MODULE: Final[dict[str, frozenset[Ability]]] = {
    "ekiben.runtime.text.completions": frozenset({Ability.CHAT, Ability.COMPLETE}),
    "ekiben.runtime.text.responses.routes": frozenset({Ability.CHAT}),
    "ekiben.runtime.embedding.embeddings": frozenset({Ability.EMBED}),
    "ekiben.runtime.embedding.rerank": frozenset({Ability.RERANK}),
    "ekiben.runtime.embedding.moderations": frozenset({Ability.MODERATE}),
    "ekiben.runtime.text.tokens": TEXT_ABILITIES,
    "ekiben.runtime.audio.routes": frozenset({Ability.TRANSCRIBE, Ability.TRANSLATE, Ability.SPEAK}),
    "ekiben.runtime.vision.ocr": frozenset({Ability.READ_TEXT}),
    "ekiben.runtime.vision.drawing": frozenset({Ability.GENERATE_IMAGE, Ability.EDIT_IMAGE}),
    "ekiben.runtime.vision.recognition": frozenset({Ability.CLASSIFY, Ability.DETECT}),
}
ABILITY_OF_PATH: Final[dict[str, Ability]] = {
    "/v1/chat/completions": Ability.CHAT,
    "/v1/completions": Ability.COMPLETE,
    "/v1/responses": Ability.CHAT,
    "/v1/responses/input_tokens": Ability.CHAT,
    "/v1/embeddings": Ability.EMBED,
    "/rerank": Ability.RERANK,
    "/v1/rerank": Ability.RERANK,
    "/v2/rerank": Ability.RERANK,
    "/v1/moderations": Ability.MODERATE,
    "/v1/audio/transcriptions": Ability.TRANSCRIBE,
    "/v1/audio/translations": Ability.TRANSLATE,
    "/v1/audio/speech": Ability.SPEAK,
    "/v1/images/generations": Ability.GENERATE_IMAGE,
    "/v1/images/edits": Ability.EDIT_IMAGE,
    "/v1/images/variations": Ability.EDIT_IMAGE,
    "/v1/images/ocr": Ability.READ_TEXT,
    "/v1/images/classify": Ability.CLASSIFY,
    "/v1/images/detect": Ability.DETECT,
}
TOKENIZER_PATHS: Final = frozenset({"/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize"})
"""For every model that reads text, if its engine shows its tokenizer."""


class RouteTable:
    """The routes of one model, by path and method."""

    def __init__(self, model: ModelSpec, routes: Iterable[Route]) -> None:
        self._model = model
        self._routes = {(r.method, r.path): r for r in routes if r.abilities & model.abilities}

    def at(self, path: str) -> Route | None:
        """A route of this path, by whatever method."""
        return next((route for route in self._routes.values() if route.path == path), None)

    def find(self, method: str, path: str) -> Route | None:
        """The route, if the model has it."""
        return self._routes.get((method, path))

    def missing(self, method: str, path: str) -> EkibenError:
        """Why there is no such route."""
        methods = sorted(known for known, at in self._routes if at == path)
        if methods:
            return method_not_allowed(method, path, allow=", ".join(methods))
        if (needed := needed_by(path)) is None:
            return NotFound(f"there is no route {path[:200]!r} here")
        can = ", ".join(sorted(self._model.abilities))
        return InvalidRequest(
            f"the model {self._model.name!r} cannot {needed}, which {path} needs: it can {can}", param="model"
        )


def needed_by(path: str) -> str | None:
    """What a model must be able to for a path, in words; None: there is no such path."""
    if (ability := ABILITY_OF_PATH.get(path)) is not None:
        return ability.value
    return "read text" if path in TOKENIZER_PATHS else None


def routes_of(abilities: frozenset[Ability]) -> list[Route]:
    """The routes of the modules that serve one of the abilities; imports them."""
    return [
        route
        for name, served in ABILITIES_OF_MODULE.items()
        if served & abilities
        for route in import_module(name).ROUTES
    ]


def warm(abilities: frozenset[Ability]) -> None:
    """Make ready what the first request would wait for otherwise. Blocking; harmless beside requests."""
    if abilities & {Ability.CHAT, Ability.COMPLETE}:
        from ekiben.runtime.text import wire

        wire.warm()


def method_not_allowed(method: str, path: str, *, allow: str) -> MethodNotAllowed:
    return MethodNotAllowed(f"{path} takes {allow}, not {method[:20]}", allow=allow)
