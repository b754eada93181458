"""Which of the OpenAI routes a model has, and what to say of those that it has not.

The routes themselves are in the modules of the abilities; only the modules that a model needs are
imported before somebody asks for another one's route.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from ekiben.contract.model import Ability, ModelSpec
from ekiben.errors import EkibenError, InvalidRequest, MethodNotAllowed, NotFound
from ekiben.runtime.http import Route

_MODULES: Final[dict[str, frozenset[Ability]]] = {
    "ekiben.runtime.text": frozenset({Ability.CHAT, Ability.COMPLETE}),
    "ekiben.runtime.embeddings": frozenset({Ability.EMBED}),
    "ekiben.runtime.audio": frozenset({Ability.TRANSCRIBE, Ability.TRANSLATE, Ability.SPEAK}),
    "ekiben.runtime.ocr": frozenset({Ability.READ_TEXT}),
}


class RouteTable:
    """The routes of one model, by path and method."""

    def __init__(self, model: ModelSpec, routes: Iterable[Route]) -> None:
        self._model = model
        self._routes = {
            (route.path, route.method): route for route in routes if route.abilities & model.abilities
        }
        self._methods: dict[str, list[str]] = {}
        for path, method in self._routes:
            self._methods.setdefault(path, []).append(method)

    def find(self, method: str, path: str) -> Route | None:
        """The route, if the model has it."""
        return self._routes.get((path, method))

    def missing(self, method: str, path: str) -> EkibenError:
        """Why there is no such route. May import the other abilities' modules, so not on the event loop."""
        if path in self._methods:
            return method_not_allowed(method, path, allow=", ".join(sorted(self._methods[path])))
        for route in routes_of(frozenset(Ability)):
            if route.path == path:
                return InvalidRequest(self._lacks(route), param="model")
        return NotFound(f"there is no route {path[:200]!r} here")

    def _lacks(self, route: Route) -> str:
        can = ", ".join(sorted(self._model.abilities))
        needed = " or ".join(sorted(route.abilities))
        return (
            f"the model {self._model.name!r} cannot {needed}: it can {can}; "
            f"choose a model that can {needed} for {route.path}"
        )


def routes_of(abilities: frozenset[Ability]) -> list[Route]:
    """The routes of all modules that serve one of the abilities; imports them."""
    return [
        route
        for name, served in _MODULES.items()
        if served & abilities
        for route in import_module(name).ROUTES
    ]


def method_not_allowed(method: str, path: str, *, allow: str) -> MethodNotAllowed:
    return MethodNotAllowed(f"{path} takes {allow}, not {method[:20]}", allow=allow)
