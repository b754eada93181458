"""The dialects that are spoken: loaded where requests come in and where models answer, each in its turn.

A dialect is somebody else's code in the platform's own process. One of a stranger is first tried out in a
process of its own, one that cannot be used is left out with a word of warning, and one that fails at telling
an error is spoken for in OpenAI's words.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol, cast

from ekiben.contract.dialect import Dialect, DialectRoute, Failure
from ekiben.errors import EkibenError, envelope
from ekiben.plugins.discovery import Plugin, Plugins, load_object
from ekiben.plugins.doctor import examine
from ekiben.plugins.environments import OWN_DISTRIBUTION

logger = logging.getLogger(__name__)

TRIAL_S: Final = 20.0
"""How long a dialect of somebody else may take to import."""


class ErrorForm(Protocol):
    """How errors are told on a route."""

    def body(self, error: EkibenError, *, request_id: str) -> bytes:
        """Of a whole answer; its status and headers are the error's own."""

    def event(self, body: bytes) -> bytes:
        """Such a body as the last event of a stream."""


class DialectErrors:
    """Errors in a dialect's words."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def body(self, error: EkibenError, *, request_id: str) -> bytes:
        try:
            return self._dialect.error(Failure.of(error, request_id=request_id))
        except Exception:
            logger.exception("a dialect cannot tell an error")
            return json.dumps(envelope(error), default=str).encode()

    def event(self, body: bytes) -> bytes:
        try:
            return self._dialect.error_event(body)
        except Exception:
            logger.exception("a dialect cannot tell an error in a stream")
            return b"data: " + body + b"\n\n"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A dialect and those of its routes that are not somebody else's already."""

    dialect: Dialect
    routes: tuple[DialectRoute, ...]
    errors: DialectErrors


def load_dialects(
    plugins: Plugins, *, taken: Collection[str], targets: Collection[str], tried: bool = False
) -> list[Spoken]:
    """Import them; blocks while strangers are tried out, unless they were `tried` by somebody already.

    `taken`: paths that are no dialect's. `targets`: paths that can answer for one.
    """
    paths = set(taken)
    spoken: list[Spoken] = []
    for dialect_id, plugin in plugins.dialects().items():
        try:
            if not tried:
                _try_out(plugins, plugin)
            dialect = cast(Dialect, load_object(plugin))
            routes = tuple(dialect.routes)
            _check(routes, paths, targets)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises must not stop the platform
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            logger.warning("the dialect %r is not spoken: %s", dialect_id, reason)
            continue
        paths.update(route.path for route in routes)
        spoken.append(Spoken(dialect, routes, DialectErrors(dialect)))
    return spoken


def _try_out(plugins: Plugins, plugin: Plugin) -> None:
    if plugin.distribution == OWN_DISTRIBUTION:
        return
    for finding in examine(plugins, [plugin.manifest.id], deadline_s=TRIAL_S):
        if finding.distribution == plugin.distribution and not finding.ready:
            raise LookupError(finding.problem)


def _check(routes: Collection[DialectRoute], taken: Collection[str], targets: Collection[str]) -> None:
    for route in routes:
        if route.path in taken or not route.path.startswith("/") or "{" in route.path:
            raise ValueError(f"the path {route.path!r} is taken, or is none")
        if route.target not in targets:
            raise ValueError(f"{route.path!r} is to be answered by {route.target!r}, which is no route")
