"""OpenAI's `response` object before anything was generated, its ids, and the framing of its events.

Shared by the replicas, which fill the object, and the gateway, which shows it while it waits and when
something fails. Plain computation: knows nothing of models, databases and connections.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from ekiben.errors import InvalidRequest

ID_HEADER: Final = "x-ekiben-response-id"
CONTEXT_HEADER: Final = "x-ekiben-context"
"""How many items stand before those of the request itself."""
"""Names the response to a replica. Its presence says that somebody keeps responses, and has put the items
of earlier ones into the input."""

FINAL_STATUSES: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
RESPONSE_ID: Final = re.compile(r"resp_([0-9a-f]{32})")

OPENING_EVENTS: Final = 2
_CODES: Final = {"invalid_request_error": "invalid_prompt", "rate_limit_error": "rate_limit_exceeded"}
"""The codes of failed responses are a closed list."""
_ITEM_ID: Final = re.compile(r"[a-z]{2,6}_([0-9a-f]{32})[0-9a-f]{4}")
_ECHOED: Final[Mapping[str, tuple[tuple[type, ...], Any]]] = {
    "instructions": ((str,), None),
    "max_output_tokens": ((int,), None),
    "max_tool_calls": ((int,), None),
    "metadata": ((dict,), {}),
    "parallel_tool_calls": ((bool,), True),
    "previous_response_id": ((str,), None),
    "prompt_cache_key": ((str,), None),
    "reasoning": ((dict,), {"effort": None, "summary": None}),
    "safety_identifier": ((str,), None),
    "temperature": ((int, float), None),
    "text": ((dict,), {}),
    "tool_choice": ((str, dict), "auto"),
    "tools": ((list,), []),
    "top_logprobs": ((int,), 0),
    "top_p": ((int, float), None),
    "truncation": ((str,), "disabled"),
}
"""What a response repeats of its request: the types, and the value of a field that was not given. `null`
for sampling: the model's own defaults apply."""


def new_response_id() -> str:
    return f"resp_{uuid4().hex}"


def item_id(kind: str, response_id: str, number: int) -> str:
    """An id that leads back to its response. `kind`: `msg`, `fc`, `rs`, …"""
    match = RESPONSE_ID.fullmatch(response_id)
    return f"{kind}_{match[1] if match else uuid4().hex}{number:04x}"


def response_of_item(given_id: str) -> str | None:
    """The response that an item belongs to, if its id was made here."""
    match = _ITEM_ID.fullmatch(given_id)
    return f"resp_{match[1]}" if match else None


def blank_response(
    body: Mapping[str, Any], *, response_id: str, model: str, created_at: float, status: str
) -> dict[str, Any]:
    """The response to a request, without output. Raises InvalidRequest for fields of wrong types."""
    echoed = {name: _echo(body, name, types, default) for name, (types, default) in _ECHOED.items()}
    if body.get("user") is not None:  # the one that is left out rather than null
        echoed["user"] = _echo(body, "user", (str,), None)
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "status": status,
        "background": body.get("background") is True,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "service_tier": "default",
        **echoed,
        "text": _text(echoed["text"]),
        "tools": [_tool(tool, index) for index, tool in enumerate(echoed["tools"])],
    }


def failed(response: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    """The same response, as one that came to nothing. `error`: as OpenAI's envelope holds it."""
    code = _CODES.get(error["type"], "server_error")
    return {**response, "status": "failed", "error": {"code": code, "message": error["message"]}}


def opening_events(response: Mapping[str, Any]) -> list[bytes]:
    """The first events of a response in the background, which wait for nobody. A replica tells the rest."""
    return [
        event(f"response.{kind}", number, {"response": response})
        for number, kind in enumerate(("created", "queued"))
    ]


def event(kind: str, number: int, fields: Mapping[str, Any]) -> bytes:
    """One event as it goes over the wire."""
    value = {"type": kind, **fields, "sequence_number": number}
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(value).encode())


def error_events(error: Mapping[str, Any], *, number: int, response: Mapping[str, Any] | None) -> list[bytes]:
    """How a stream tells that it failed, from the sequence number on.

    `error`: as OpenAI's envelope holds it. `response`: as far as it is known.
    """
    told = {"code": error["code"] or error["type"], "message": error["message"], "param": error["param"]}
    events = [event("error", number, told)]
    if response is not None:
        events.append(event("response.failed", number + 1, {"response": failed(response, error)}))
    return events


def _echo(body: Mapping[str, Any], name: str, types: Sequence[type], default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, tuple(types)) or (isinstance(value, bool) and bool not in types):
        raise InvalidRequest(f"{name!r} has a value of the wrong type", param=name)
    return value


def _text(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": given.get("format") or {"type": "text"},
        "verbosity": given.get("verbosity") or "medium",
    }


def _tool(tool: Any, index: int) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise InvalidRequest(f"'tools.{index}' must be an object", param=f"tools.{index}")
    if tool.get("type") == "function":
        return {"description": None, "parameters": None, "strict": None, **tool}
    return dict(tool)
