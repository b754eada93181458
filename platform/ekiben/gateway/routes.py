"""The routing table. What is not in it does not exist: no normalising, no redirects, no guesses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote

from ekiben.errors import MethodNotAllowed, NotFound
from ekiben.gateway.http.exchange import Exchange

Handler: TypeAlias = Callable[[Exchange, str], Awaitable[None]]
"""Gets the exchange and what stood in the place of the route's parameter."""

PARAMETER: Final = "{}"


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path. `{}` in the path stands for an id, which may contain slashes."""

    method: str
    path: str
    handler: Handler
    open: bool = False
    """Answered without a key."""


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[str, str, dict[str, Route]]] = []
        for route in routes:
            if PARAMETER in route.path:
                self._pattern(route.path)[route.method] = route
            else:
                self._fixed.setdefault(route.path, {})[route.method] = route
        # The longest tail first: `/api/models/{}/load` before `/api/models/{}`.
        self._patterns.sort(key=lambda pattern: (-len(pattern[1]), -len(pattern[0])))

    def _pattern(self, path: str) -> dict[str, Route]:
        head, _, tail = path.partition(PARAMETER)
        for known_head, known_tail, methods in self._patterns:
            if (known_head, known_tail) == (head, tail):
                return methods
        methods = {}
        self._patterns.append((head, tail, methods))
        return methods

    def is_open(self, method: str, raw_path: str) -> bool:
        """Whether it is answered without a key; what does not exist is not."""
        try:
            methods, _ = self._find(raw_path)
        except NotFound:
            return False
        route = methods.get(method)
        return route is not None and route.open

    def match(self, method: str, raw_path: str) -> tuple[Route, str]:
        """The route and its parameter. Raises NotFound and MethodNotAllowed.

        `raw_path` is the path as sent: an encoded slash is part of an id, never of the route.
        """
        methods, parameter = self._find(raw_path)
        route = methods.get(method)
        if route is None:
            allow = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"{method} is not a method of this route: use {allow}", allow=allow)
        return route, parameter

    def _find(self, raw_path: str) -> tuple[dict[str, Route], str]:
        methods = self._fixed.get(raw_path)
        if methods is not None:
            return methods, ""
        for head, tail, candidates in self._patterns:
            if raw_path.startswith(head) and raw_path.endswith(tail):
                parameter = _parameter(raw_path[len(head) : len(raw_path) - len(tail)])
                if parameter:
                    return candidates, parameter
        raise NotFound("there is no such route: see /v1/models and /api/models for what there is")


def _parameter(raw: str) -> str:
    """The id, decoded; empty when it would be a trick with the path."""
    text = unquote(raw, errors="replace")
    segments = text.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        return ""
    return text
