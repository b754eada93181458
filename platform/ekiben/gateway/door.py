"""Who may come in: the key, and without one the guard against pages in the user's own browser.

Forwarding headers are never looked at; what counts is the connection and the `Host` and `Origin` that
browsers set themselves.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from typing import Final

from ekiben.errors import AuthenticationFailed, ConfigError, PermissionDenied
from ekiben.gateway.http.exchange import Exchange
from ekiben.settings import Settings

MAX_KNOWN_HOSTS: Final = 64
_HOST: Final = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_PRINTABLE: Final = frozenset(map(chr, range(0x21, 0x7F)))


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where strangers could come in. Raises ConfigError that says what to do."""
    key = settings.api_key
    if key is not None:
        if not key.get_secret_value() or not set(key.get_secret_value()) <= _PRINTABLE:
            raise ConfigError(
                "the api_key must be printable ASCII without spaces: make one with `openssl rand -hex 32`"
            )
        return
    if not settings.no_auth and not is_loopback(settings.host):
        raise ConfigError(
            f"listening on {settings.host!r} without a key would let anybody in: set EKIBEN_API_KEY, "
            "or say --no-auth if that is meant"
        )


class Door:
    """Judges each request by its headers."""

    def __init__(self, settings: Settings) -> None:
        key = settings.api_key
        self._digest = None if key is None else _digest(key.get_secret_value().encode("ascii"))
        # Told to be open on every address, it cannot know the names it is called by.
        self._any_host = settings.no_auth and not is_loopback(settings.host)
        self._host = settings.host.lower()
        self._own: set[bytes] = set()
        """`Host` headers that were found good before; there are not many ways to write them."""

    def admit(self, exchange: Exchange) -> None:
        """Raises AuthenticationFailed or PermissionDenied."""
        if self._digest is not None:
            self._check_key(exchange, self._digest)
        else:
            self._check_browser(exchange)

    def _check_key(self, exchange: Exchange, digest: bytes) -> None:
        own = exchange.manner.key_header
        given = exchange.headers.get(own, b"").strip() if own is not None else b""
        if not given:
            scheme, _, token = exchange.headers.get(b"authorization", b"").partition(b" ")
            given = token.strip() if scheme.lower() == b"bearer" else b""
        # Hashed first, so that the time taken says nothing about the key.
        if not hmac.compare_digest(_digest(given), digest):
            way = f"{own.decode('latin-1')}: KEY" if own is not None else "Authorization: Bearer KEY"
            what = "is not valid" if given else f"is missing: send `{way}`"
            raise AuthenticationFailed(f"the API key {what}")

    def _check_browser(self, exchange: Exchange) -> None:
        """A page of another site must not reach a platform that trusts whoever is on this machine."""
        host = exchange.headers.get(b"host", b"")
        alone = [name for name, _ in exchange.scope["headers"]].count(b"host") == 1
        if not alone or not (self._any_host or self._is_own(host)):
            raise PermissionDenied(
                "this host name is not served without a key: use http://127.0.0.1, or set EKIBEN_API_KEY"
            )
        origin = exchange.headers.get(b"origin")
        if origin is not None and not _is_origin_of(origin, host):
            raise PermissionDenied("requests from pages of other sites need a key: set EKIBEN_API_KEY")
        if exchange.headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise PermissionDenied("requests from pages of other sites need a key: set EKIBEN_API_KEY")

    def _is_own(self, host: bytes) -> bool:
        if host in self._own:
            return True
        name = _name_of(host)
        own = name != "" and (is_loopback(name) or name == self._host)
        if own and len(self._own) < MAX_KNOWN_HOSTS:
            self._own.add(host)
        return own


def _name_of(host: bytes) -> str:
    """The name in a `Host` header, lower case; empty when there is more in it than name and port."""
    match = _HOST.fullmatch(host)
    return "" if match is None else match[1].decode("ascii").lower().strip("[]")


def _is_origin_of(origin: bytes, host: bytes) -> bool:
    _, _, rest = origin.partition(b"://")
    return bool(rest) and rest.lower() == host.lower()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
