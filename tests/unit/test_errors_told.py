"""What clients are told of errors: what happened, and nothing of this machine. Row I4."""

from __future__ import annotations

import pytest

from ekiben.errors import (
    LOG_ENDS,
    EngineError,
    EngineNotInstalled,
    FetchFailed,
    InvalidRequest,
    LoadFailed,
    ReplicaDied,
    for_clients,
)
from ekiben.runtime.answering import told
from ekiben.runtime.text.responses.request import counted_from_own


def test_lines_of_logs_are_not_for_clients() -> None:
    error = LoadFailed(f"'m' did not start: it was killed by SIGSEGV{LOG_ENDS}secret at /home/me/x.py")
    told = for_clients(error)
    assert isinstance(told, LoadFailed)
    assert told.message.startswith("'m' did not start: it was killed by SIGSEGV; ")
    assert "ekiben logs" in told.message
    assert "secret" not in told.message
    assert "secret" in error.message, "whoever runs the platform reads all of it"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/root/.ekiben/weights/a b/x.gguf is no GGUF", "a b/x.gguf is no GGUF"),
        ("'/home/me/models/x.gguf' is gone", "'x.gguf' is gone"),
        ("cannot open ~/models/x.gguf: gone", "cannot open x.gguf: gone"),
        ("org/model at https://host/a/b has image/png", "org/model at https://host/a/b has image/png"),
        ("see GET /metrics", "see GET /metrics"),
    ],
)
def test_folders_are_not_for_clients(message: str, shown: str) -> None:
    assert for_clients(FetchFailed(message)).message == shown


def test_the_rest_of_an_error_stays() -> None:
    error = ReplicaDied("gone", retry_after_s=3)
    assert for_clients(error).headers() == error.headers()
    missing = EngineNotInstalled("the engine 'x' is not installed: run `ekiben engine install x`")
    assert for_clients(missing).message == missing.message
    wrong = InvalidRequest("'/a/b/c' is no model", param="model")
    assert for_clients(wrong) is wrong, "what a client sent, it may read"


def test_a_replica_tells_its_log_what_it_does_not_tell(caplog: pytest.LogCaptureFixture) -> None:
    error = EngineError("cannot open /home/me/models/x.gguf: gone")
    assert told(error).message == "cannot open x.gguf: gone"
    assert error.message in caplog.text
    caplog.clear()
    wrong = InvalidRequest("'/a/b/c' is no voice", param="voice")
    assert told(wrong) is wrong
    assert not caplog.text
    assert "secret" not in told(RuntimeError("secret")).message
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("param", "context", "counted"),
    [
        ("input.5.content.0.type", 4, "input.1.content.0.type"),
        ("input.4", 4, "input.0"),
        ("input.1.content", 4, "previous_response_id"),
        ("input.1.content", 0, "input.1.content"),
        ("tools.5", 4, "tools.5"),
        (None, 4, None),
    ],
)
def test_items_are_counted_as_their_client_does(param: str | None, context: int, counted: str | None) -> None:
    error = counted_from_own(InvalidRequest(f"{param!r} is wrong", param=param), context)
    assert (error.param, error.message) == (counted, f"{counted!r} is wrong")
