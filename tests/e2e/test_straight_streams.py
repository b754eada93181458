"""The events of a stream come straight from the replica, over the connection to the platform."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.running import wait_until

MODEL = "smollm2-135m-instruct"
LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count to 500."}],
    "temperature": 0,
    "max_tokens": 300,
    "stream": True,
}


def clients(pid: int, port: int | None) -> list[int]:
    """The ports of those clients of the platform at `port` to whom a process can write."""
    found = psutil.Process(pid).net_connections("tcp")
    return [held.raddr.port for held in found if held.status != "LISTEN" and held.laddr.port == port]


def handed_over(pid: int, port: int | None) -> list[int]:
    """Wait for such clients."""
    return wait_until(lambda: clients(pid, port) or None, "the connection is handed over")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_replica_has_the_connection_for_the_stream_and_no_longer(platform: Any, path: str) -> None:
    port = urlsplit(platform.url).port
    with httpx.Client(base_url=platform.url, timeout=60) as client:
        ask = LONG | {"stream": False, "max_tokens": 1}
        assert client.post(path, json=ask).status_code == 200
        replica = platform.replica_pid(MODEL)
        for _ in range(2):  # on one connection
            assert clients(replica, port) == []
            with client.stream("POST", path, json=LONG) as answer:
                assert answer.status_code == 200
                _, ours = answer.extensions["network_stream"].get_extra_info("client_addr")
                lines = answer.iter_lines()
                assert any(line.startswith("data:") for line in lines)
                assert handed_over(replica, port) == [ours]
                *_, last = [line for line in lines if line]
            assert "[DONE]" in last or "message_stop" in last


def test_who_leaves_leaves_nothing(platform: Any) -> None:
    port = urlsplit(platform.url).port
    with httpx.stream("POST", f"{platform.url}/v1/chat/completions", json=LONG, timeout=60) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith("data:") for line in lines)
        replica = platform.replica_pid(MODEL)
        assert handed_over(replica, port)
    wait_until(lambda: clients(replica, port) == [] or None, "the replica lets go of it")
    wait_until(lambda: platform.model(MODEL)["in_flight"] == 0 or None, "its work ends")
