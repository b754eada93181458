"""Requests that two readers read differently, and bodies that grow when they are opened: B2, B5, B6, B8.

What the gateway takes reaches the replica once, as one request with one length; the rest gets its 4xx.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator

import pytest

from tests.integration.gateway_lab import Client, Lab, Response, chat_body, chunked, running_lab

KEY = "sk-door-key"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
HIDDEN = b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab
        assert (await lab.chat()).status == 200, "healthy after"


async def raw(lab: Lab, data: bytes) -> tuple[Client, Response]:
    client = await lab.client()
    client.writer.write(data)
    return client, await client.response()


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "identity, gzip"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/audio/transcriptions"])
async def test_b2_compressed_bodies_are_refused_before_they_are_opened(
    lab: Lab, path: str, encoding: str
) -> None:
    bomb = gzip.compress(b" " * 2**24)
    kind = "multipart/form-data; boundary=x" if "audio" in path else "application/json"
    response = await lab.ask("POST", path, bomb, {"content-encoding": encoding, "content-type": kind})
    assert response.status == 415
    assert "compressed" in response.error()["message"]
    assert lab.fleet.acquired == 0


BODY = chat_body()
LENGTH = b"content-length: %d\r\n" % len(BODY)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(LENGTH + b"transfer-encoding: chunked\r\n", id="length, then chunked"),
        pytest.param(b"transfer-encoding: chunked\r\n" + LENGTH, id="chunked, then length"),
        pytest.param(LENGTH + LENGTH, id="the same length twice"),
        pytest.param(LENGTH + b"content-length: 0\r\n", id="two lengths"),
        pytest.param(b"content-length: %d, %d\r\n" % (len(BODY), len(BODY)), id="a list of lengths"),
        pytest.param(b"content-length: +%d\r\n" % len(BODY), id="a length with a sign"),
        pytest.param(b"content-length: 0x10\r\n", id="a length in hexadecimal"),
        pytest.param(b"content-length: -1\r\n", id="a negative length"),
        pytest.param(b"content-length: 99999999999999999999999\r\n", id="a length beyond any"),
        pytest.param(b"content-length : %d\r\n" % len(BODY), id="a space before the colon"),
        pytest.param(b"transfer-encoding: chunked, identity\r\n", id="chunked, but not last"),
        pytest.param(b"transfer-encoding: xchunked\r\n", id="not chunked at all"),
        pytest.param(b"transfer-encoding: gzip, chunked\r\n" + LENGTH, id="packed and chunked with a length"),
        pytest.param(b"x: a\r\n " + LENGTH, id="a folded length"),
        pytest.param(b"x: a\r\n\tb\r\n" + LENGTH, id="a folded header"),
        pytest.param(b"x: a\0b\r\n" + LENGTH, id="a NUL"),
        pytest.param(b"x: a\rcontent-length: 3\r\n" + LENGTH, id="a bare CR"),
        pytest.param(LENGTH[:-2] + b"\nx: a\r\n", id="a bare LF"),
    ],
)
async def test_b5_what_two_readers_could_read_differently_is_refused(lab: Lab, head: bytes) -> None:
    client, response = await raw(lab, CHAT + head + b"\r\n" + BODY + HIDDEN)
    assert response.status == 400
    response.error()
    assert await client.dropped(), "nothing after it is taken for a request"
    client.hang_up()
    assert lab.fleet.acquired == 0


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(b"5\r\n" + b"x" * 9 + b"\r\n0\r\n\r\n", id="longer than it says"),
        pytest.param(b"fffffffffffffffff\r\nx", id="a size beyond any"),
        pytest.param(b"-1\r\nx\r\n0\r\n\r\n", id="a negative size"),
        pytest.param(b"0x5\r\nhello\r\n0\r\n\r\n", id="a size with a prefix"),
        pytest.param(b"5\nhello\n0\n\n", id="bare LFs"),
    ],
)
async def test_b5_broken_chunks_are_refused(lab: Lab, chunks: bytes) -> None:
    client, response = await raw(lab, CHAT + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    assert response.status == 400
    assert await client.dropped()
    client.hang_up()
    assert lab.fleet.acquired == 0


async def test_b5_what_chunks_and_trailers_say_is_not_passed_on(lab: Lab) -> None:
    head = CHAT + b"transfer-encoding: chunked\r\ntrailer: x-request-id\r\n\r\n"
    body = b"%x;name=value\r\n%b\r\n0\r\nx-request-id: trailed\r\n\r\n" % (len(BODY), BODY)
    client, response = await raw(lab, head + body)
    assert response.status == 200
    client.hang_up()
    seen = lab.replica.seen[0]
    assert seen.body == BODY
    assert seen.headers["content-length"] == str(len(BODY))
    assert b"trail" not in seen.head and b"chunked" not in seen.head


async def test_b5_the_old_version_is_answered_and_closed(lab: Lab) -> None:
    old = CHAT.replace(b"HTTP/1.1", b"HTTP/1.0") + LENGTH + b"\r\n" + BODY
    client, response = await raw(lab, old)
    assert response.status == 200
    assert await client.dropped()
    client.hang_up()


async def test_b5_another_protocol_is_not_spoken(lab: Lab) -> None:
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    asked = HIDDEN.replace(b"/metrics", b"/v1/models")[:-2]
    for data, status in [
        (asked + upgrade + b"\r\n" + HIDDEN, 200),  # the request counts, the wish does not
        (CHAT + upgrade + LENGTH + b"\r\n" + BODY, 400),
        (CHAT + upgrade + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ]:
        client, response = await raw(lab, data)
        assert response.status == status
        assert await client.dropped(), "nothing after it is taken for a request"
        client.hang_up()
    assert lab.fleet.acquired == 0


@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"1;", b"0\r\n" + b"x: y\r\n" * 1000])
async def test_b5_lines_between_chunks_have_an_end(lab: Lab, endless: bytes) -> None:
    client = await lab.client()
    client.writer.write(CHAT + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY))
    client.writer.write(endless)
    more = b"x: y\r\n" * 6_000 if b"y\r" in endless else b"y" * 40_000
    with contextlib.suppress(OSError):
        for _ in range(20):
            client.writer.write(more)
            await client.writer.drain()
        assert b"400 Bad Request" in await client.reader.read()
    await lab.settled()
    assert lab.fleet.acquired == 0
    client.hang_up()


async def test_b5_a_crowd_of_requests_in_one_packet_is_answered_in_order(lab: Lab) -> None:
    client = await lab.client()
    one = CHAT + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY) + b"0\r\n\r\n"
    client.writer.write((one + HIDDEN.replace(b"/metrics", b"/nope")) * 20)
    assert [(await client.response()).status for _ in range(40)] == [200, 404] * 20
    client.hang_up()


HOSTS = ("x/livez?", "x/livez#", "user@127.0.0.1", "127.0.0.1/livez", "a b", "[", "@")


@pytest.mark.parametrize(("key", "refused"), [(KEY, 401), (None, 403)])
async def test_b6_the_host_never_opens_the_door(key: str | None, refused: int) -> None:
    async with running_lab(api_key=key) as lab:
        for host in HOSTS:
            for target in ("/v1/models", "http://x/v1/models", "http://a@b/v1/models"):
                client, response = await raw(lab, f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
                assert response.status in (refused, 400), (host, target)
                client.hang_up()


TARGETS = ("@evil", "*", "//livez/../v1/models", "evil.example:80", "/livez?/../v1/models")


async def test_b6_strange_targets_are_no_way_around() -> None:
    async with running_lab(api_key=KEY) as lab:
        for target in TARGETS:
            client, response = await raw(lab, f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            # What follows a question mark is no path: only the route that is open to all answers.
            assert response.status in ((200,) if target.startswith("/livez?") else (400, 401, 404)), target
            client.hang_up()


@pytest.mark.parametrize(
    "given", [b"a\r\nx-injected: 1", b"x" * 10_000, b"127.0.0.1:80", b"a\tb", b"<b>", b"\xc3\xa9", b"a;b"]
)
async def test_b8_ids_of_clients_are_kept_only_when_they_are_plain(lab: Lab, given: bytes) -> None:
    client, response = await raw(lab, CHAT + LENGTH + b"x-request-id: " + given + b"\r\n\r\n" + BODY)
    assert response.status == 200
    client.hang_up()
    said = response.headers["x-request-id"]
    # A line of its own is a header of its own, which goes nowhere either.
    assert said == "a" if given.startswith(b"a\r\n") else said.startswith("req_")
    assert "x-injected" not in response.headers
    seen = lab.replica.seen[0].headers
    assert seen["x-request-id"] == said
    assert "x-injected" not in seen
