"""Requests that nobody would write: good ones, of which some fields get values from anywhere."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.running import Platform

TIMEOUT_S: Final = 60

TEXTS: Final = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "\0", "<|im_end|>", "\ud800", "x" * 5000, "{{ 7*7 }}", "a\r\nb", "../../etc", "null"]
    ),
)
NUMBERS: Final = st.one_of(
    st.integers(-3, 200),
    st.sampled_from([2**31, 2**63, -(2**63), 2**64, 10**400, -1, 0, 0.5, -0.0, 1e308, 1e-320]),
)
VALUES: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["type", "role", "content", "text", "name", "function"]), TEXTS),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


QUICK: Final = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
LONG: Final = settings(QUICK, max_examples=400, derandomize=False)


@st.composite
def spoilt(draw: st.DrawFn, good: dict[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """A body that was good once. `fields`: those that may be in it, besides those that are."""
    body: dict[str, Any] = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        if not (places := list(_places(body))):
            break
        place, key = draw(st.sampled_from(places))
        if isinstance(place, dict) and place is body:
            key = draw(st.sampled_from(sorted({key, *fields})))
        if draw(st.booleans()) or not isinstance(place, dict):
            place[key] = draw(VALUES)
        else:
            place.pop(key, None)
    return body


@st.composite
def written(draw: st.DrawFn, body: dict[str, Any]) -> bytes:
    """As JSON, mostly."""
    raw = json.dumps(body).encode()
    return draw(
        st.sampled_from([raw, raw, raw, raw, raw[: len(raw) // 2], raw + b"}", raw.replace(b'"', b"'")])
    )


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every dictionary and list in it, with each of its keys."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def send(platform: Platform, path: str, body: bytes, content_type: str = "application/json") -> int:
    """The status, which is never 5xx; an answer in JSON is some."""
    connection = http.client.HTTPConnection(platform.url.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body, {"content-type": content_type})
        response = connection.getresponse()
        told = response.read()
        assert response.status < 500, (response.status, told, body)
        if response.getheader("content-type", "").startswith("application/json"):
            assert json.loads(told)
        return response.status
    finally:
        connection.close()
