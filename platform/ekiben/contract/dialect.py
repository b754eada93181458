"""The dialect protocol: another API than OpenAI's, over the same abilities.

A dialect is a set of routes whose requests it turns into OpenAI's, and whose answers it makes of OpenAI's.
It is plain computation: what runs models, starts them, counts and cancels is the platform's. It is
imported where models answer and at the platform's door, so it must import quickly and need little.

A request's way: `DialectRoute.translate` → the ability's own route → `Translation.whole`, or `events` of a
stream; what fails anywhere on that way is told by `Dialect.error`, and in a stream that has begun also by
`Dialect.error_event`. While a stream waits for its model it is kept alive by comments, as in any stream of
server-sent events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from ekiben.contract.model import Ability
from ekiben.errors import EkibenError


class Events(Protocol):
    """One answer's stream, in the dialect: bytes as they go over the wire, framing included."""

    def begin(self) -> bytes:
        """Before the first object; may be empty."""

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """What a `chat.completion.chunk` becomes; empty when there is nothing to tell yet."""

    def finish(self) -> bytes:
        """After the last one of a whole answer."""


class Translation(Protocol):
    """A request in OpenAI's words, and the way back."""

    @property
    def body(self) -> Mapping[str, Any]:
        """The request of `DialectRoute.target`. What a stream needs for its end, such as usage, it asks for
        itself."""

    def whole(self, answer: Mapping[str, Any]) -> bytes:
        """The body of an answer that is not streamed."""

    def events(self) -> Events:
        """For an answer that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectRoute:
    """One `POST` of JSON."""

    path: str
    ability: Ability
    """That a model needs for it."""
    target: str
    """The path of the OpenAI route, or of the platform's own, that answers it."""
    translate: Callable[[Mapping[str, Any]], Translation]
    """Raises InvalidRequest and UnsupportedParameter, with `param` in the dialect's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong, as OpenAI's envelope says it."""

    status: int
    type: str
    code: str | None
    message: str
    request_id: str

    @classmethod
    def of(cls, error: EkibenError, *, request_id: str) -> Self:
        """An error of the tree."""
        return cls(
            status=error.status,
            type=error.type,
            code=error.error_code,
            message=error.message,
            request_id=request_id,
        )


class Dialect(Protocol):
    """A plugin that speaks another API."""

    @property
    def routes(self) -> Sequence[DialectRoute]:
        """All of them; constant."""

    @property
    def key_header(self) -> str | None:
        """A header, lower case, in which its clients may send their key instead of `authorization`."""

    @property
    def request_id_header(self) -> str | None:
        """A header, lower case, in which its clients look for the request's id, besides `x-request-id`."""

    def error(self, failure: Failure) -> bytes:
        """The body of an error's answer: a JSON object. The status is kept."""

    def error_event(self, body: bytes) -> bytes:
        """Such a body as the last event of a stream that has begun, framing included."""
