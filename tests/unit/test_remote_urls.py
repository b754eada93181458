"""URLs of clients: which are read, which addresses are reached, and what an answer may be. Rows H1 and H2.

Real servers on loopback; what is public is told by the test, since loopback never is.
"""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from ekiben.errors import InvalidRequest
from ekiben.runtime.remote import Fetched, IPAddress, Refused, Remote, is_public, read_url

PICTURES = frozenset({"image/png"})
PNG = b"\x89PNG and more"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"
LIMIT = 100_000

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Answers every request by its script, and keeps what was asked."""

    answer: bytes | Script = OK + b"content-length: %d\r\n\r\n" % len(PNG) + PNG
    heads: list[bytes] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
                await writer.drain()
            else:
                await self.answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    await listening.wait_closed()


def everybody(_: IPAddress) -> bool:
    return True


class Names:
    """A resolver that says something else each time it is asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0)


async def fetch(url: str, remote: Remote | None = None) -> Fetched:
    remote = remote or Remote(permit=everybody, max_bytes=LIMIT, timeout_s=5)
    return await remote.fetch(url, types=PICTURES, param="image")


async def refusal(url: str, remote: Remote | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        await fetch(url, remote)
    assert (caught.value.status, caught.value.param) == (400, "image")
    return caught.value.message


PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_h1_addresses_that_not_everybody_can_reach_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_h1_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


STRANGE = [
    "file:///etc/passwd",
    "gopher://example.com/x",
    "ftp://example.com/x",
    "unix:/run/x.sock",
    "http+unix://%2Frun%2Fx.sock/a",
    "//example.com/x",
    "http:example.com",
    "http:/example.com",
    "http:///example.com",
    "http://",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.0.01/",
    "http://1.2.3.4.5/",
    "http://localhost./",
    "http://example.com./",
    "http://.example.com/",
    "http://a..b/",
    "http://good@evil.example/",
    "http://good:pass@evil.example/",
    "http://evil.example\\@good.example/",
    "http://evil.example\\.good.example/",
    "http://good.example#@evil.example\\",
    "http://good.example /",
    "http://good.example\t/",
    "http://good.example/\r\nhost: evil",
    "http://good.example/ü",
    "http://gooд.example/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://[::1",
    "http://[::1]x/",
    "http://[fe80::1%25eth0]/",
    "http://[::ffff:127.0.0.1]evil/",
    "http://example.com:99999/",
    "http://example.com:0/",
    "http://example.com:8O/",
    "http://" + "a" * 300 + "/",
    "http://example.com/" + "a" * 10_000,
    " http://example.com/",
    "",
]


@pytest.mark.parametrize("url", STRANGE)
async def test_h1_urls_that_could_be_read_in_two_ways_are_not_read(url: str) -> None:
    with pytest.raises(Refused):
        read_url(url)
    names = Names()
    await refusal(url, Remote(permit=everybody, look_up=names))
    assert names.asked == []


def test_a_plain_url_is_read_once_and_for_all() -> None:
    address = read_url("HTTPS://Example.COM:8443/a/%2e%2e/b?c=d%20e#f")
    assert (address.scheme, address.host, address.port) == ("https", "example.com", 8443)
    assert str(address.url()) == "https://example.com:8443/a/%2e%2e/b?c=d%20e"
    assert str(read_url("http://[2606:4700::1111]/x").url()) == "http://[2606:4700::1111]/x"


async def test_what_is_public_is_fetched(server: Server) -> None:
    names = Names(["127.0.0.1"])
    remote = Remote(permit=everybody, look_up=names)
    fetched = await fetch(f"http://cat.example:{server.port}/a.png?b", remote)
    assert fetched == Fetched("image/png", PNG)
    assert names.asked == ["cat.example"]
    (head,) = server.heads
    assert head.startswith(b"GET /a.png?b HTTP/1.1\r\n")
    assert b"host: cat.example:" in head.lower()
    assert b"cookie" not in head.lower() and b"authorization" not in head.lower()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_h1_this_machine_is_not_reached(server: Server, host: str) -> None:
    assert "not public" in await refusal(f"http://{host}:{server.port}/", Remote())
    assert server.heads == []


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], [], ["garbage"]])
async def test_h1_names_that_lead_inside_are_not_followed(server: Server, answer: list[str]) -> None:
    remote = Remote(look_up=Names(answer))
    assert "not public" in await refusal(f"http://inside.example:{server.port}/", remote)
    assert server.heads == []


async def test_h1_a_name_is_looked_up_once_and_that_address_is_reached(server: Server) -> None:
    """Rebinding: what the name says a second later does not count."""
    names = Names(["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"])
    public = ipaddress.ip_address("127.0.0.1")
    remote = Remote(permit=lambda address: address == public, look_up=names)
    assert (await fetch(f"http://turns.example:{server.port}/", remote)).data == PNG
    assert len(names.answers) == 2
    assert "not public" in await refusal(f"http://turns.example:{server.port}/", remote)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_h1_redirects_are_not_followed(server: Server, status: int) -> None:
    target = f"http://127.0.0.1:{server.port}/secret"
    server.answer = f"HTTP/1.1 {status} X\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n".encode()
    assert "redirects" in await refusal(f"http://127.0.0.1:{server.port}/")
    assert len(server.heads) == 1


async def test_h1_proxies_of_the_environment_are_not_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.port}")
    remote = Remote(look_up=Names(["10.0.0.1"]))
    await refusal("http://cat.example/", remote)
    assert server.heads == []


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"content-length: 50000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)
    while True:
        writer.write(b"x-a: " + b"b" * 1000 + b"\r\n")
        await writer.drain()


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"connection: close\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def endless_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(drip, "within", id="drips"),
        pytest.param(silence, "within", id="says nothing"),
        pytest.param(endless, "larger", id="is endless"),
        pytest.param(endless_chunks, "larger", id="is endless in chunks"),
        pytest.param(endless_head, "", id="has an endless head"),
        pytest.param(OK + b"content-length: 99999999999\r\n\r\n", "larger", id="declares too much"),
        pytest.param(OK + b"content-length: 500\r\n\r\nshort", "answer as it should", id="declares more"),
        pytest.param(
            OK + b"content-length: -5\r\n\r\nx", "answer as it should", id="declares less than none"
        ),
        pytest.param(
            OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(bytes(10**7)), "compressed", id="bomb"
        ),
        pytest.param(OK.replace(b"image/png", b"text/html") + b"\r\n", "text/html", id="is no picture"),
        pytest.param(OK.replace(b"image/png", b"image/svg+xml") + b"\r\n", "svg", id="is a program"),
        pytest.param(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", "404", id="is not there"),
        pytest.param(b"not http at all\r\n\r\n", "answer as it should", id="is not HTTP"),
        pytest.param(b"", "answer as it should", id="hangs up"),
    ],
)
async def test_h2_answers_are_bounded(server: Server, answer: bytes | Script, said: str) -> None:
    server.answer = answer
    remote = Remote(permit=everybody, max_bytes=LIMIT, timeout_s=0.5 if said == "within" else 5)
    assert said in await refusal(f"http://127.0.0.1:{server.port}/", remote)


async def test_nobody_there_is_told_without_saying_where(server: Server) -> None:
    remote = Remote(permit=everybody, look_up=Names(["127.0.0.77"]), timeout_s=5)
    assert "127.0.0.77" not in await refusal("http://gone.example:9/", remote)
