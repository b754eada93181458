"""Fetching one file over HTTP so that it can be resumed, through pip's proxy and certificates."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ekiben_pypi.index import Network

_BLOCK_BYTES: Final = 1 << 18
_TRIES_WITHOUT_PROGRESS: Final = 4
_NETWORK_ERRORS: Final = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)
_AGENT: Final = {"User-Agent": "ekiben", "Accept-Encoding": "identity"}


class Refused(Exception):
    """The server does not give us the file; pip, which knows more ways to ask, may get it."""


class Downloader:
    """Speaks HTTP the way pip is configured to."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def size_bytes(self, url: str) -> int | None:
        """How long the file is, if the server says so when asked."""
        try:
            with self._open(url, method="HEAD") as response:
                return _length(response.headers.get("Content-Length"))
        except (OSError, http.client.HTTPException):
            return None

    def fetch(self, url: str, target: Path, *, watch: Callable[[int], None]) -> None:
        """Complete `target`, which may hold a beginning of the file. Raises Refused.

        `watch` gets how much is there, again and again.
        """
        tries_left = _TRIES_WITHOUT_PROGRESS
        while tries_left:
            before = _size(target)
            try:
                self._attempt(url, target, watch=watch)
                return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416:  # the beginning is longer than the file: it is not its beginning
                    target.unlink(missing_ok=True)
                elif error.code < 500 and error.code not in (408, 429):
                    raise Refused(f"HTTP {error.code} {error.reason}") from None
                reason = f"HTTP {error.code} {error.reason}"
            except _NETWORK_ERRORS as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
                if isinstance(getattr(error, "reason", None), ssl.SSLError):
                    raise Refused(reason) from None
            tries_left = _TRIES_WITHOUT_PROGRESS if _size(target) > before else tries_left - 1
            time.sleep(0.2 * 2 ** (_TRIES_WITHOUT_PROGRESS - tries_left))
        raise Refused(reason)

    def _attempt(self, url: str, target: Path, *, watch: Callable[[int], None]) -> None:
        start = _size(target)
        with self._open(url, method="GET", start=start) as response:
            resumed = response.status == 206 and _range_start(response.headers.get("Content-Range")) == start
            start = start if resumed else 0
            length = _length(response.headers.get("Content-Length"))
            with target.open("ab" if resumed else "wb") as file:
                watch(start)
                received = 0
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
                    received += len(block)
                    watch(start + received)
        if length is not None and received < length:
            raise http.client.IncompleteRead(b"", length - received)

    def _open(self, url: str, *, method: str, start: int = 0) -> Any:
        headers = dict(_AGENT) | ({"Range": f"bytes={start}-"} if start else {})
        request = urllib.request.Request(url, headers=headers, method=method)
        return self._opener(url).open(request, timeout=self._network.timeout_s)

    def _opener(self, url: str) -> urllib.request.OpenerDirector:
        network = self._network
        context = ssl.create_default_context()
        if network.certificates:
            _load(context, network.certificates)
        if network.client_certificate:
            context.load_cert_chain(network.client_certificate)
        if {urlsplit(url).hostname or "", urlsplit(url).netloc} & network.trusted_hosts:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        proxies = {"http": network.proxy, "https": network.proxy} if network.proxy else None
        return urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
        )


def _load(context: ssl.SSLContext, certificates: str) -> None:
    path = Path(certificates)
    try:
        context.load_verify_locations(**({"capath": str(path)} if path.is_dir() else {"cafile": str(path)}))
    except OSError as error:
        raise Refused(f"the certificates in {certificates!r} cannot be read: {error}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _length(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _range_start(text: str | None) -> int | None:
    """Of `bytes 100-199/200`."""
    first = (text or "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None
