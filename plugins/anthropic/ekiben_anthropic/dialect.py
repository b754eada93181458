"""The dialect: its routes, and how it tells errors."""

from __future__ import annotations

import json
from typing import Final

from ekiben.contract.dialect import DialectRoute, Failure
from ekiben.contract.model import Ability
from ekiben_anthropic.counting import CountTranslation
from ekiben_anthropic.messages import MessagesTranslation

_TYPE_OF_STATUS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Anthropic:
    """`/v1/messages`."""

    key_header = "x-api-key"
    request_id_header = "request-id"
    routes = (
        DialectRoute(
            path="/v1/messages",
            ability=Ability.CHAT,
            target="/v1/chat/completions",
            translate=MessagesTranslation,
        ),
        DialectRoute(
            path="/v1/messages/count_tokens",
            ability=Ability.CHAT,
            target="/v1/tokenize",
            translate=CountTranslation,
        ),
    )

    def error(self, failure: Failure) -> bytes:
        otherwise = "api_error" if failure.status >= 500 else "invalid_request_error"
        error = {"type": _TYPE_OF_STATUS.get(failure.status, otherwise), "message": failure.message}
        body = {"type": "error", "error": error, "request_id": failure.request_id or None}
        return json.dumps(body).encode()

    def error_event(self, body: bytes) -> bytes:
        return b"event: error\ndata: " + body + b"\n\n"
