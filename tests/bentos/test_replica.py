"""A replica's life, as the fleet sees it: reports, socket, signals, end."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from ekiben.runtime.protocol import GO, Stage
from tests.bentos.processes import Replica

Start = Callable[..., Replica]


def test_it_reports_every_stage_and_serves_on_a_socket_of_its_user(start_replica: Start) -> None:
    replica = start_replica()
    assert replica.next_report().stage is Stage.STARTING
    loading = replica.next_report()
    assert loading.stage is Stage.LOADING
    assert loading.host_bytes is not None and loading.host_bytes > 10**7 + 3_000_000
    assert loading.device_bytes is None
    assert not _accepts(replica)
    ready = replica.report_of(Stage.READY)
    assert ready.host_bytes is not None and ready.host_bytes > 10**7
    assert stat.S_IMODE(replica.order.socket.stat().st_mode) == 0o600
    (model,) = replica.ask("/v1/models", method="GET").json()["data"]
    assert model["id"] == "polly"


def test_it_tells_what_it_will_take_and_loads_when_it_is_told_to(start_replica: Start) -> None:
    replica = start_replica(go=False)
    assert replica.next_report().host_bytes is None
    told = replica.next_report()
    assert told.stage is Stage.STARTING
    assert told.host_bytes is not None and told.host_bytes > 10**7 + 3_000_000
    assert "will load" not in replica.log
    replica.channel.send(GO)
    loading = replica.next_report()
    assert (loading.stage, loading.host_bytes) == (Stage.LOADING, told.host_bytes)
    stages = replica.report_of(Stage.READY).detail
    assert stages is not None and stages["stages_s"]["held"] >= 0
    assert "will load" in replica.log


def test_it_goes_while_it_waits_to_load(start_replica: Start) -> None:
    replica = start_replica(go=False)
    while replica.next_report().host_bytes is None:
        pass
    replica.process.send_signal(signal.SIGTERM)
    assert replica.process.wait(timeout=5) == 0


def test_it_does_not_load_for_a_platform_that_hung_up(start_replica: Start) -> None:
    replica = start_replica(go=False)
    while replica.next_report().host_bytes is None:
        pass
    replica.channel.shutdown(socket.SHUT_RDWR)
    assert replica.process.wait(timeout=5) == 3
    assert "nothing is loaded" in replica.log and "will load" not in replica.log


@pytest.mark.parametrize(
    ("device", "seen", "variables"),
    [
        ("cpu", "cpu", "'' ''"),
        ("cuda:3", "cuda:0", "'3' None"),
        ("rocm:2", "rocm:0", "None '2'"),
    ],
)
def test_it_sees_its_device_and_no_other(
    start_replica: Start, device: str, seen: str, variables: str
) -> None:
    replica = start_replica(device=device)
    replica.report_of(Stage.READY)
    assert f"the parrot will load on {seen}, seeing {variables}" in replica.log


def test_a_stream_under_way_is_finished_when_it_is_told_to_go(start_replica: Start) -> None:
    replica = start_replica(pause_s=0.2)
    replica.report_of(Stage.READY)
    with replica.chat("one two three four") as events:
        first = next(events)
        replica.process.send_signal(signal.SIGTERM)
        *rest, done = events
    words = [json.loads(event)["choices"][0]["delta"]["content"] for event in (first, *rest)]
    assert words == ["one ", "two ", "three ", "four "]
    assert done == "[DONE]"
    assert replica.process.wait(timeout=10) == 0
    assert "the parrot flies away" in replica.log
    assert not (replica.order.folder / "tmp").exists()
    assert not _accepts(replica)


def test_asked_twice_it_goes_at_once(start_replica: Start) -> None:
    replica = start_replica(pause_s=60)
    replica.report_of(Stage.READY)
    with replica.chat("one two") as events:
        next(events)
        replica.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            replica.process.wait(timeout=0.5)
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(timeout=2) == 0


def test_a_load_is_given_up_when_it_is_told_to_go(start_replica: Start) -> None:
    replica = start_replica(load="slow")
    while replica.next_report().progress != 0.5:
        pass
    replica.process.send_signal(signal.SIGTERM)
    assert replica.process.wait(timeout=2) == 0


@pytest.mark.parametrize(
    ("load", "cracker", "reason"),
    [
        ("fails", b"cracker", "the parrot is not hungry: try another cracker"),
        ("breaks", b"cracker", "the engine 'parrot' cannot load 'polly': RuntimeError: squawk"),
        ("lacks", b"cracker", "which 'parrot' did not make it able to"),
        ("well", b"broken", "the cracker is broken: bake another one"),
    ],
)
def test_a_failing_load_is_told_in_a_sentence(
    start_replica: Start, load: str, cracker: bytes, reason: str
) -> None:
    replica = start_replica(load=load, cracker=cracker)
    while (report := replica.next_report()).stage is not Stage.FAILED:
        pass
    assert report.error is not None and reason in report.error
    assert replica.process.wait(timeout=10) == 3
    assert reason in replica.log


def test_an_order_that_is_none_is_refused() -> None:
    command = [sys.executable, "-m", "ekiben.runtime.replica", "/nowhere/order.json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "cannot be read" in result.stderr and "Traceback" not in result.stderr


FOSTER_PARENT = """
import json, os, pathlib, subprocess, sys, time
path = pathlib.Path(sys.argv[1])
order = json.loads(path.read_text()) | {"parent_pid": os.getpid()}
path.write_text(json.dumps(order))
command = [sys.executable, "-m", "ekiben.runtime.replica", str(path)]
child = subprocess.Popen(command, pass_fds=[order["report_fd"]])
child.wait()
"""


def test_it_ends_with_its_parent(start_replica: Start) -> None:
    replica = start_replica(parent=FOSTER_PARENT)
    replica.report_of(Stage.READY)
    (child,) = psutil.Process(replica.process.pid).children()
    replica.process.kill()
    replica.process.wait()
    gone, _ = psutil.wait_procs([child], timeout=5)
    assert gone and not _accepts(replica)


def test_it_does_not_serve_a_parent_that_is_gone_already(start_replica: Start) -> None:
    replica = start_replica(parent=FOSTER_PARENT.replace("os.getpid()", "os.getppid()"))
    assert replica.process.wait(timeout=10) == 0  # the foster parent's; its child has killed itself
    assert replica.log == ""


def test_a_client_that_leaves_does_not_leave_its_work(start_replica: Start) -> None:
    replica = start_replica(pause_s=60)
    replica.report_of(Stage.READY)
    with replica.chat("one two") as events:
        next(events)
    # Nothing is in flight any more, so one request to go is enough, although the parrot has not finished.
    replica.process.send_signal(signal.SIGTERM)
    assert replica.process.wait(timeout=5) == 0


def _accepts(replica: Replica) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(replica.order.socket))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
