"""Who gets in: every route of the table, with and without a key, from the user's own browser and others."""

from __future__ import annotations

import pytest

from ekiben.contract.model import Ability
from ekiben.gateway.inference import INFERENCE
from tests.integration.gateway_lab import CHAT, Lab, chat_body, running_lab

KEY = "sk-0123456789abcdef"
PICTURES = "/v1/images/files/"
OPEN = {"/livez", "/readyz"}
ENDLESS = "/api/events"


def routes(lab: Lab) -> list[tuple[str, str]]:
    return [(route.method, route.path.replace("{}", CHAT)) for route in lab.gateway.router.routes]


async def ask(lab: Lab, method: str, path: str, headers: dict[str, str], *, host: str = "127.0.0.1") -> int:
    client = await lab.client()
    try:
        await client.send(method, path, chat_body() if method == "POST" else None, headers, host=host)
        if path == ENDLESS:
            return (await client.head())[0]
        response = await client.response()
        if response.status >= 400:
            response.error()
        return response.status
    finally:
        client.hang_up()


async def test_every_route_but_three_needs_the_key() -> None:
    async with running_lab(api_key=KEY) as lab:
        assert len(routes(lab)) > 20
        for method, path in [*routes(lab), ("GET", "/nope"), ("PUT", "/v1/models"), ("POST", "/livez")]:
            expected = path in OPEN and method == "GET"
            for headers in (
                {},
                {"authorization": ""},
                {"authorization": "Bearer "},
                {"authorization": f"Bearer {KEY[:-1]}"},
                {"authorization": f"Bearer {KEY}x"},
                {"authorization": f"Bearer {KEY.upper()}"},
                {"authorization": f"Basic {KEY}"},
                {"authorization": KEY},
                {"x-api-key": KEY},
                {"cookie": f"key={KEY}"},
                {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1", "x-real-ip": "127.0.0.1"},
            ):
                status = await ask(lab, method, path, headers)
                if path.startswith(PICTURES):
                    assert status == 404, "whose name is the secret"
                else:
                    assert status == (200 if expected else 401), (method, path, headers, status)
            assert await ask(lab, method, path, {"authorization": f"bearer {KEY}"}) not in (401, 403), path
        own = [entry for entry in INFERENCE if entry.ability in (None, Ability.CHAT, Ability.COMPLETE)]
        asked = [
            seen for seen in lab.replica.seen if seen.head.startswith(b"POST")
        ]  # others want its metrics
        assert len(asked) == len(own)  # the rest was not this model's work


@pytest.mark.parametrize(
    "key",
    [
        "' or 1=1 --",
        "%s%n",
        "{0}",
        "x" * 50_000,
        KEY + " " + KEY,
        KEY.replace("a", "а").encode().decode("latin-1"),  # a look-alike letter
    ],
)
async def test_strange_keys_are_401_in_the_openai_envelope(key: str) -> None:
    async with running_lab(api_key=KEY) as lab:
        response = await lab.chat(headers={"authorization": f"Bearer {key}"})
        assert response.status == 401
        error = response.error()
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert key not in error["message"]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:3000", True),
        ("127.9.9.9", True),
        ("localhost:3000", True),
        ("LOCALHOST", True),
        ("[::1]:3000", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("evil.example/127.0.0.1", False),
        ("127.0.0.1:port", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
async def test_without_a_key_only_names_of_this_machine_are_served(host: str, allowed: bool) -> None:
    async with running_lab() as lab:
        for method, path in [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics")]:
            assert (await ask(lab, method, path, {}, host=host) == 200) is allowed
        if not allowed:
            assert (await lab.ask("GET", "/v1/models", host=host)).status == 403


async def test_two_host_headers_are_refused() -> None:
    async with running_lab() as lab:
        client = await lab.client()
        client.writer.write(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n")
        assert (await client.response()).status == 403
        client.hang_up()


async def test_an_absolute_target_changes_nothing() -> None:
    async with running_lab(api_key=KEY) as lab:
        client = await lab.client()
        client.writer.write(b"GET http://x/livez?/../v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await client.response()).status == 200
        client.writer.write(b"GET http://x/v1/models?/livez HTTP/1.1\r\nhost: a/livez\r\n\r\n")
        assert (await client.response()).status == 401
        client.hang_up()


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"origin": "http://127.0.0.1:3000"}, True),
        ({"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:8080"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
async def test_without_a_key_pages_of_other_sites_are_refused(headers: dict[str, str], allowed: bool) -> None:
    async with running_lab() as lab:
        for method, path in [("POST", "/v1/chat/completions"), ("POST", f"/api/models/{CHAT}/stop")]:
            status = await ask(lab, method, path, headers, host="127.0.0.1:3000")
            assert status == (200 if allowed else 403)


async def test_an_open_address_takes_any_name_but_no_foreign_pages() -> None:
    async with running_lab(no_auth=True, host="0.0.0.0") as lab:
        assert await ask(lab, "GET", "/v1/models", {}, host="box.lan:3000") == 200
        assert await ask(lab, "GET", "/v1/models", {"origin": "http://evil.example"}, host="box.lan") == 403


async def test_when_it_drains_it_is_not_ready_and_takes_no_work() -> None:
    async with running_lab() as lab:
        assert await ask(lab, "GET", "/readyz", {}) == 200
        lab.gateway.drain()
        assert await ask(lab, "GET", "/readyz", {}) == 503
        assert await ask(lab, "GET", "/livez", {}) == 200
        response = await lab.chat()
        assert response.status == 503
        assert response.error()["code"] == "shutting_down"
        assert response.headers["retry-after"] == "5"
        assert await ask(lab, "GET", "/api/models", {}) == 200
