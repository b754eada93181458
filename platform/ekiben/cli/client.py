"""The platform from outside: plain HTTP with the standard library, whole answers and streams.

Every failure comes out as an EkibenError with the platform's own words.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import quote, urlsplit

from ekiben.errors import ConfigError, EkibenError

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
"""For what the platform answers from memory."""
LONGEST_WAIT_S: Final = 3600.0
"""For what may have to fetch and load a model first; the platform's own budgets end sooner."""


def model_path(name: str, *, action: str = "") -> str:
    """The path of a model in the API; names may hold slashes and colons."""
    return f"/api/models/{quote(name, safe='')}" + (f"/{action}" if action else "")


class Platform:
    """A running platform. Each request uses a connection of its own, so threads may share this."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._key = api_key
        parts = urlsplit(self.url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80

    def answers(self) -> bool:
        """Whether it is alive."""
        try:
            with self.open("GET", "/livez", timeout_s=CONNECT_TIMEOUT_S) as response:
                return response.status < 500
        except EkibenError:
            return False

    def get(self, path: str) -> Any:
        return self.call("GET", path, timeout_s=ANSWER_TIMEOUT_S)

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = LONGEST_WAIT_S) -> Any:
        """JSON to JSON. Raises EkibenError."""
        with self.ask(method, path, body, timeout_s=timeout_s) as response:
            raw = _read(response)
        try:
            return json.loads(raw) if raw else None
        except ValueError:
            raise EkibenError(f"{self.url} does not answer like a platform: {raw[:80]!r}") from None

    @contextmanager
    def ask(
        self, method: str, path: str, body: object = None, *, timeout_s: float = LONGEST_WAIT_S
    ) -> Iterator[http.client.HTTPResponse]:
        """Send JSON and give the answer, unread; raises EkibenError unless it is a good one."""
        raw = None if body is None else json.dumps(body).encode()
        with self.send(method, path, raw, content_type="application/json", timeout_s=timeout_s) as response:
            yield response

    @contextmanager
    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        *,
        content_type: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = LONGEST_WAIT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """As `ask`, with any body. An iterable needs its `content-length` among the headers."""
        sent = dict(headers or {}) | ({"content-type": content_type} if body is not None else {})
        with self.open(method, path, body=body, headers=sent, timeout_s=timeout_s) as response:
            if response.status >= 400:
                raise _error_of(response.status, _read(response))
            yield response

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Iterator[http.client.HTTPResponse]:
        """One exchange, whatever its status. Leaving the context hangs up."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        sent = dict(headers or {}) | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            try:
                connection.connect()
                connection.sock.settimeout(timeout_s)
                # A server that refuses a body hangs up while it is sent: its answer is there all the same.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, path, body=body, headers=sent)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from None
            yield response
        finally:
            connection.close()

    def _unreachable(self, error: BaseException) -> EkibenError:
        return EkibenError(
            f"the platform on {self.url} does not answer: {str(error) or type(error).__name__}"
        )


def read_chunks(response: http.client.HTTPResponse, size_bytes: int = 1 << 16) -> Iterator[bytes]:
    """The body as it comes. Raises EkibenError when it breaks off."""
    while chunk := _read(response, size_bytes):
        yield chunk


def read_events(response: http.client.HTTPResponse) -> Generator[Any, None, None]:
    """The JSON events of an OpenAI stream up to `[DONE]`; comments are skipped.

    Raises EkibenError for an error event, and when the stream ends without its end.
    """
    while line := _read_line(response):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if isinstance(event, dict) and event.get("error"):
            raise _error_of(500, data)
        yield event
    raise EkibenError("the answer broke off before its end")


def _read(response: http.client.HTTPResponse, size_bytes: int | None = None) -> bytes:
    try:
        # read1 gives what is there instead of waiting for the whole size.
        return response.read() if size_bytes is None else response.read1(size_bytes)
    except (OSError, http.client.HTTPException) as error:
        raise _broke_off(error) from None


def _read_line(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.readline()
    except (OSError, http.client.HTTPException) as error:
        raise _broke_off(error) from None


def _broke_off(error: BaseException) -> EkibenError:
    return EkibenError(f"the answer broke off: {str(error) or type(error).__name__}")


def _error_of(status: int, raw: bytes) -> EkibenError:
    """The platform's error in our own tree: the message is its own, the exit code follows the kind."""
    try:
        error = json.loads(raw)["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        message, code = (
            f"the platform answered with status {status}: {raw[:200].decode(errors='replace')}",
            None,
        )
    if status == 401:
        message += " (set EKIBEN_API_KEY to the platform's key)"
    if code == ConfigError.code:
        return ConfigError(message)
    return EkibenError(message, code=code)
