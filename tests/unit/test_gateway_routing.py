"""The routing table and the door, without a network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.errors import ConfigError, MethodNotAllowed, NotFound
from ekiben.gateway.door import check_exposure, is_loopback
from ekiben.gateway.http.exchange import Exchange
from ekiben.gateway.routes import Route, Router
from ekiben.settings import Settings


async def nothing(exchange: Exchange, parameter: str) -> None:
    raise AssertionError("routes are only looked up here")


ROUTER = Router(
    [
        Route("GET", "/", nothing),
        Route("GET", "/livez", nothing, open=True),
        Route("GET", "/things", nothing),
        Route("POST", "/things", nothing),
        Route("GET", "/things/{}", nothing),
        Route("DELETE", "/things/{}", nothing),
        Route("POST", "/things/{}/load", nothing),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "route", "parameter"),
    [
        ("GET", "/things", "/things", ""),
        ("GET", "/things/a", "/things/{}", "a"),
        ("GET", "/things/a/b", "/things/{}", "a/b"),
        ("GET", "/things/a%2Fb%3Ac", "/things/{}", "a/b:c"),
        ("POST", "/things/a/load", "/things/{}/load", "a"),
        ("POST", "/things/a/b/load", "/things/{}/load", "a/b"),
        ("POST", "/things/load/load", "/things/{}/load", "load"),
        ("DELETE", "/things/load", "/things/{}", "load"),
    ],
)
def test_a_route_is_found(method: str, path: str, route: str, parameter: str) -> None:
    found, value = ROUTER.match(method, path)
    assert (found.method, found.path, value) == (method, route, parameter)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//",
        "/things/",
        "/things//",
        "/things/..",
        "/things/%2e%2e",
        "/things/a/../b",
        "/things/.",
        "/things//load",
    ],
)
def test_nothing_else_is(path: str) -> None:
    with pytest.raises(NotFound):
        ROUTER.match("GET", path)


def test_methods_are_told() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.match("PUT", "/things/a")
    assert caught.value.headers() == {"allow": "DELETE, GET"}


@given(
    st.text(alphabet="/.%2feE5cthings live-z;\\\0", max_size=30),
    st.sampled_from(["GET", "POST", "livez", ""]),
)
def test_only_the_open_route_itself_is_open(path: str, method: str) -> None:
    assert ROUTER.is_open(method, path) is ((method, path) == ("GET", "/livez"))
    try:
        _, parameter = ROUTER.match(method, path)
    except (NotFound, MethodNotAllowed):
        return
    assert not {"", ".."} & set(parameter.split("/")) or parameter == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_exposure(Settings.model_validate({"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", ""])
def test_listening_beyond_this_machine_needs_a_key_or_a_clear_word(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match=r"EKIBEN_API_KEY.*--no-auth"):
        check_exposure(Settings.model_validate({"host": host}))
    check_exposure(Settings.model_validate({"host": host, "no_auth": True}))
    check_exposure(Settings.model_validate({"host": host, "api_key": "sk-1"}))


@pytest.mark.parametrize("key", ["", "a b", "a\n", "schlüssel", "\x7f"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key"):
        check_exposure(Settings.model_validate({"api_key": key}))
