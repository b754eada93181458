"""The client of the command line against servers that behave in every way."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ekiben.cli.client import Platform, model_path, read_chunks, read_events
from ekiben.errors import ConfigError, EkibenError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@contextmanager
def server(*answers: bytes, read: bool = True) -> Iterator[tuple[Platform, list[bytes]]]:
    """Sends the answers, one per connection, after it has read a request; then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(65536) if read else b"")
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Platform(f"http://127.0.0.1:{listener.getsockname()[1]}/", api_key="secret"), requests
    finally:
        thread.join(timeout=10)
        listener.close()


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


def chunked(*parts: bytes, end: bool = True) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + chunks + (b"0\r\n\r\n" if end else b"")


def events(platform: Platform) -> list[object]:
    with platform.ask("POST", "/v1/chat/completions", {}) as response:
        return list(read_events(response))


def test_json_goes_both_ways_with_the_key() -> None:
    with server(whole(b'{"a": 1}')) as (platform, requests):
        assert platform.call("POST", "/api/models", {"yaml": "x"}) == {"a": 1}
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert b"authorization: Bearer secret" in head
    assert json.loads(body or b'{"yaml": "x"}') == {"yaml": "x"}


def test_names_with_slashes_stay_one_part_of_the_path() -> None:
    assert model_path("org/model:7b", action="load") == "/api/models/org%2Fmodel%3A7b/load"


@pytest.mark.parametrize(
    ("code", "kind"), [("model_not_found", EkibenError), ("configuration_error", ConfigError)]
)
def test_an_error_keeps_its_words_and_decides_the_exit_code(code: str, kind: type[EkibenError]) -> None:
    body = json.dumps({"error": {"message": "no such thing", "type": "x", "param": None, "code": code}})
    with server(whole(body.encode(), "404 Not Found")) as (platform, _), pytest.raises(kind) as caught:
        platform.get("/x")
    assert type(caught.value) is kind
    assert caught.value.message == "no such thing"


def test_a_wrong_key_says_where_the_right_one_goes() -> None:
    body = json.dumps({"error": {"message": "wrong key", "code": "invalid_api_key"}}).encode()
    with server(whole(body, "401 Unauthorized")) as (platform, _), pytest.raises(EkibenError) as caught:
        platform.get("/x")
    assert "EKIBEN_API_KEY" in caught.value.message


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (whole(b"<html>", "502 Bad Gateway"), "status 502"),
        (whole(b"<html>"), "does not answer like a platform"),
        (b"", "does not answer"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "broke off"),
    ],
)
def test_whatever_is_no_platform_becomes_a_sentence(answer: bytes, part: str) -> None:
    with server(answer) as (platform, _), pytest.raises(EkibenError, match=part):
        platform.get("/x")


def test_nobody_there_becomes_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    platform = Platform(f"http://127.0.0.1:{port}")
    assert not platform.answers()
    with pytest.raises(EkibenError, match="does not answer"):
        platform.get("/x")


def test_a_refusal_in_the_middle_of_a_large_body_is_still_read() -> None:
    refusal = json.dumps({"error": {"message": "too large", "code": "request_too_large"}}).encode()
    body = (bytes(1 << 20) for _ in range(64))
    headers = {"content-length": str(64 << 20)}
    with (
        server(whole(refusal, "413 Too Large")) as (platform, _),
        pytest.raises(EkibenError) as caught,
        platform.send("POST", "/x", body, content_type="x/y", headers=headers),
    ):
        pytest.fail("the body was refused")
    assert caught.value.message == "too large"


def test_events_come_without_comments_whatever_the_packets() -> None:
    parts = [b": ekiben loading\n\n", b'data: {"n"', b': 1}\n\ndata: {"n": 2}\n', b"\ndata: [DONE]\n\n"]
    with server(chunked(*parts)) as (platform, _):
        assert events(platform) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (chunked(b'data: {"n": 1}\n\n'), "broke off"),
        (chunked(b'data: {"n": 1}\n\n', end=False), "broke off"),
        (chunked(b'data: {"error": {"message": "the replica died", "code": "replica_died"}}\n\n'), "died"),
    ],
)
def test_half_a_stream_is_never_taken_for_whole(answer: bytes, part: str) -> None:
    with server(answer) as (platform, _), pytest.raises(EkibenError, match=part):
        events(platform)


def test_bytes_come_as_they_are_made() -> None:
    with server(chunked(b"one", b"two")) as (platform, _), platform.ask("POST", "/x", {}) as response:
        assert b"".join(read_chunks(response)) == b"onetwo"


def test_half_a_file_is_never_taken_for_whole() -> None:
    with server(chunked(b"one", end=False)) as (platform, _), pytest.raises(EkibenError, match="broke off"):
        _read_all(platform)


def _read_all(platform: Platform) -> bytes:
    with platform.ask("POST", "/x", {}) as response:
        return b"".join(read_chunks(response))
