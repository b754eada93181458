"""The rules that hold for every answer of the test run: each one notices when it is broken."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from typing import Any

import httpx
import httpx2
import pytest

from ekiben.gateway.inference import INFERENCE
from ekiben.runtime.routing import ABILITY_OF_PATH
from tests.conformance import tap
from tests.conformance.answers import STREAM_TYPE, Exchange, problems_of_answer
from tests.conformance.surface import row_of
from tests.servers import FileServer

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HEADERS = {"content-type": "application/json", "x-request-id": "req_1"}
STREAM_HEADERS = {"content-type": STREAM_TYPE, "cache-control": "no-cache", "x-request-id": "req_1"}


def whole(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "hi", "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    return head | {"choices": [choice], "usage": USAGE} | more


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": [choice]} | more


FIRST = chunk({"role": "assistant", "content": ""})
SECOND = chunk({"content": "hi"})
LAST = chunk({}, "stop")


def answer(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Exchange:
    raw = json.dumps(body).encode()
    return Exchange("POST", CHAT, b"{}", status, HEADERS | (headers or {}), raw, gateway=True)


def stream(*events: dict[str, Any] | str, asked: object = None, is_whole: bool = True) -> Exchange:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    body = "".join(f"data: {text}\n\n" for text in texts).encode()
    return Exchange("POST", CHAT, json.dumps(asked or {}).encode(), 200, STREAM_HEADERS, body, is_whole)


def error(**more: Any) -> dict[str, Any]:
    return {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None} | more}


@pytest.mark.parametrize(
    "good",
    [
        answer(whole()),
        answer(error(), status=400),
        answer(error(), status=429, headers={"retry-after": "1"}),
        stream(FIRST, SECOND, LAST, "[DONE]"),
        stream(FIRST, SECOND, error()),
        stream(FIRST, SECOND, is_whole=False),
        stream(
            *(event | {"usage": None} for event in (FIRST, SECOND, LAST)),
            LAST | {"choices": [], "usage": USAGE},
            "[DONE]",
            asked={"stream_options": {"include_usage": True}},
        ),
    ],
)
def test_what_is_right_passes(good: Exchange) -> None:
    assert problems_of_answer(good) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (answer(whole(created="1")), "created"),
        (answer(whole(mood="good")), "mood"),
        (answer(whole(choices=[{"index": 0}])), "choices"),
        (answer({k: v for k, v in whole().items() if k != "id"}), "id"),
        (answer(whole(), headers={"x-request-id": ""}), "x-request-id"),
        (answer(whole(), headers={"content-type": "text/html"}), "text/html"),
        (answer(whole(), status=204), "204"),
        (answer({"error": "no"}, status=400), "error"),
        (answer({"error": {"message": "no", "type": "t", "param": None}}, status=400), "code"),
        (answer(error(code=400), status=400), "400"),
        (answer(error(message=""), status=400), "message"),
        (answer(error(message="Traceback (most"), status=500), "Traceback"),
        (answer(error(), status=429), "retry-after"),
        (answer(error(), status=503, headers={"retry-after": "0"}), "retry-after"),
        (answer(error(), status=405), "allow"),
        (replace(answer(whole()), path="/v1/nowhere"), "row"),
        (stream(FIRST, SECOND, LAST), "without [DONE]"),
        (stream(FIRST, "[DONE]", LAST), "[DONE] is not the last"),
        (stream(FIRST, LAST, "[DONE]", "[DONE]"), "[DONE] is not the last"),
        (stream(FIRST, error(), "[DONE]"), "follows an error"),
        (stream(FIRST, error(), LAST), "follows an error"),
        (stream(SECOND, LAST, "[DONE]"), "role"),
        (stream(FIRST, LAST, SECOND, "[DONE]"), "after its finish_reason"),
        (stream(FIRST, SECOND, "[DONE]"), "without a finish_reason"),
        (stream(FIRST, LAST | {"id": "c2"}, "[DONE]"), "'id' changes"),
        (stream(FIRST, "{", "[DONE]"), "not JSON"),
        (stream(FIRST, LAST | {"usage": USAGE}, "[DONE]"), "nobody asked"),
        (stream(FIRST, LAST, LAST | {"choices": [], "usage": USAGE}, "[DONE]"), "nobody asked"),
        (stream(FIRST, LAST, "[DONE]", asked={"stream_options": {"include_usage": True}}), "without 'usage'"),
        (
            stream(
                FIRST | {"usage": None},
                LAST | {"usage": USAGE},
                "[DONE]",
                asked={"stream_options": {"include_usage": True}},
            ),
            "one last chunk",
        ),
        (
            replace(stream(FIRST, LAST, "[DONE]"), headers=HEADERS | {"content-type": "text/event-stream"}),
            "type",
        ),
    ],
)
def test_what_is_wrong_is_noticed(bad: Exchange, said: str) -> None:
    assert said in "\n".join(problems_of_answer(bad))


def test_the_events_of_responses_are_numbered_and_named() -> None:
    events = [
        {"type": "error", "sequence_number": n, "code": None, "message": "no", "param": None} for n in (0, 2)
    ]
    body = "".join(f"event: {name}\ndata: {json.dumps(e)}\n\n" for name, e in zip("ab", events, strict=True))
    found = problems_of_answer(Exchange("POST", "/v1/responses", b"{}", 200, STREAM_HEADERS, body.encode()))
    assert {"an event's name is not its type", "sequence numbers with gaps: [0, 2]"} <= set(found)


def test_every_route_has_a_row() -> None:
    paths = {route.path for route in INFERENCE} | ABILITY_OF_PATH.keys()
    assert [path for path in sorted(paths) if row_of("POST", path) is None] == []


def test_the_tap_hears_every_client() -> None:
    server = FileServer()
    path = "/v1/models/wrong"
    server.files[path] = b'{"id": 5}'
    with server.running() as url, tap.aside() as problems:
        before = tap.heard().get(f"GET {path}", 0)
        httpx.get(url + path)
        httpx2.get(url + path)
        with urllib.request.urlopen(url + path) as response:
            response.read()
        with httpx.stream("GET", url + path):
            pass  # its body is not read, so nothing is known of it
        assert tap.heard()[f"GET {path}"] - before == 4
    assert len(problems) == 3
    assert all("octet-stream" in problem for problem in problems)
