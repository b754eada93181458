"""Fetches what a URL of a request names, where the operator has said that URLs may be fetched at all.

A client chooses the URL, so this machine must not lend it its place in the network: a URL is read strictly,
its host is resolved once, every address must be a public one, and the connection goes to that address. There
are no redirects, no proxies, no cookies, no decompression; bytes and time are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ekiben.errors import InvalidRequest

MAX_BYTES: Final = 20 * 2**20
"""Of one answer. In base64, and with the rest of the request, it must still fit a JSON body."""
TIMEOUT_S: Final = 15.0
"""From the first look at the name to the last byte."""
MAX_URL: Final = 8192
AT_ONCE: Final = 8
"""Fetches of one replica."""

_URL: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!$-;=@-Z_a-z~%]*)?"
    r"(?:\?(?P<query>[!$-;=?@-Z_a-z~%]*))?"
    r"(?:#[!-\[\]-~]*)?",
    re.IGNORECASE,
)
"""No user, no backslash, no space, nothing beyond ASCII: all that two readers might read differently."""
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.)*[a-z](?:[a-z0-9-]{0,62})", re.IGNORECASE)
"""A name whose last label begins with a letter: a number in any other spelling is none."""
_UNWELCOME: Final = tuple(
    map(
        ipaddress.ip_network,
        ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10", "192.88.99.0/24"),
    )
)
"""Addresses that stand for others: IPv4 in disguise, tunnels, relays, and a retired private range."""

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Permit: TypeAlias = Callable[[IPAddress], bool]
Lookup: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was there."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL, as they were understood once and for all."""

    scheme: str
    host: str
    """A name, or an IP address without brackets."""
    port: int
    path: str
    query: str

    @property
    def literal(self) -> IPAddress | None:
        """The host, where it is an address itself."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def url(self) -> URL:
        return URL.build(
            scheme=self.scheme,
            host=f"[{self.host}]" if ":" in self.host else self.host,
            port=self.port,
            path=self.path,
            query_string=self.query,
            encoded=True,
        )


class Refused(Exception):
    """Why something was not fetched, for whoever asked."""


def is_public(address: IPAddress) -> bool:
    """Whether anybody on the Internet could reach it, and it is nobody in disguise."""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address.version == network.version and address in network for network in _UNWELCOME)


def read_url(text: str) -> Address:
    """Raises Refused."""
    if len(text) > MAX_URL:
        raise Refused(f"is longer than {MAX_URL} characters")
    match = _URL.fullmatch(text)
    if match is None:
        raise Refused("is not a plain http or https URL")
    host = match["host"].lower().strip("[]")
    port = int(match["port"] or (443 if match["scheme"].lower() == "https" else 80))
    if not 0 < port < 2**16:
        raise Refused("has a port that does not exist")
    address = Address(match["scheme"].lower(), host, port, match["path"] or "/", match["query"] or "")
    if address.literal is None and not (len(host) < 254 and _NAME.fullmatch(host)):
        raise Refused("has a host that is neither a name nor an IP address in its usual form")
    return address


async def look_up(host: str, port: int) -> Sequence[str]:
    """All addresses of a name, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Remote:
    """`permit` and `look_up` are the seams for tests: who may be reached, and where names lead."""

    def __init__(
        self,
        *,
        permit: Permit = is_public,
        look_up: Lookup = look_up,
        max_bytes: int = MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._resolver = _CheckingResolver(permit, look_up)
        self._permit = permit
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, url: str, *, types: frozenset[str], param: str) -> Fetched:
        """Raises InvalidRequest that names `param`."""
        try:
            async with self._turns, asyncio.timeout(self._timeout_s):
                return await self._fetch(read_url(url), types)
        except Refused as error:
            reason = str(error)
        except TimeoutError:
            reason = f"was not there within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError):
            reason = "cannot be fetched: its host does not answer as it should"
        raise InvalidRequest(f"{url[:200]!r} {reason}", param=param)

    async def _fetch(self, address: Address, types: frozenset[str]) -> Fetched:
        # The library asks its resolver only about names.
        if address.literal is not None and not self._permit(address.literal):
            raise Refused("has a host that is not public")
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver, use_dns_cache=False, force_close=True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                headers={"accept": ", ".join(sorted(types)), "accept-encoding": "identity"},
            ) as session,
            session.get(address.url(), allow_redirects=False) as response,
        ):
            media_type = self._check_head(response, types)
            return Fetched(media_type, await self._read(response))

    def _check_head(self, response: aiohttp.ClientResponse, types: frozenset[str]) -> str:
        if 300 <= response.status < 400:
            raise Refused(f"answers {response.status}, and redirects are not followed: send where it leads")
        if response.status != 200:
            raise Refused(f"answers {response.status}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused("comes compressed, though it was asked for as it is")
        media_type = response.content_type.lower()
        if media_type not in types:
            raise Refused(f"is of type {media_type[:50]!r}: {', '.join(sorted(types))} are taken")
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large()
        return media_type

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._max_bytes:
                raise self._too_large()
        return bytes(data)

    def _too_large(self) -> Refused:
        return Refused(f"is larger than {self._max_bytes} bytes")


class _CheckingResolver(AbstractResolver):
    """Looks a name up once, and hands out its addresses only when all of them may be reached."""

    def __init__(self, permit: Permit, look_up: Lookup) -> None:
        self._permit = permit
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._look_up(host, port)
        if not found or not all(self._permitted(text) for text in found):
            raise Refused("has a host that is not public")
        return [self._result(host, port, text) for text in found]

    def _permitted(self, text: str) -> bool:
        try:
            return self._permit(ipaddress.ip_address(text))
        except ValueError:
            return False

    @staticmethod
    def _result(host: str, port: int, text: str) -> ResolveResult:
        family: Any = socket.AF_INET6 if ":" in text else socket.AF_INET
        return {
            "hostname": host,
            "host": text,
            "port": port,
            "family": family,
            "proto": 0,
            "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        }

    async def close(self) -> None:
        """Nothing is kept."""
