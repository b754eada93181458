"""A replica's process: `python -m ekiben.runtime.replica ORDER.json`, started by the fleet, or a fork.

Loads the family's Bento as BentoML does, and does itself what the supervisor of `bentoml serve` would
have done: the folders, the socket, the signals, the end. Until it is ready it ends when the platform does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import ValidationError

from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.parent import die_with_parent
from ekiben.errors import LoadFailed
from ekiben.runtime.host import SCRATCH, ModelHost, assignment_of
from ekiben.runtime.process.channel import Channel
from ekiben.runtime.process.custody import Adoptable, Custody
from ekiben.runtime.process.devices import visible
from ekiben.runtime.process.handoff import HandingOff, Handoffs
from ekiben.runtime.process.naps import Naps
from ekiben.runtime.process.output import survive_full_disks
from ekiben.runtime.process.shortage import is_shortage
from ekiben.runtime.protocol import Order, Report, Stage
from ekiben.settings import export

if TYPE_CHECKING:
    from ekiben.runtime.bento import EkibenService

logger = logging.getLogger(__name__)

BENTOML_HOME: Final = "bentoml"
"""In the replica's folder."""
EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 3


def main(arguments: list[str]) -> NoReturn:
    """Run the replica of an order's file."""
    log_to_standard_error()
    if len(arguments) != 1:
        sys.exit("usage: python -m ekiben.runtime.replica ORDER.json")
    try:
        order = Order.model_validate_json(Path(arguments[0]).read_bytes())
    except (OSError, ValidationError) as error:
        logger.error("the order %s cannot be read: %s", arguments[0], error)
        sys.exit(EXIT_USAGE)
    run_replica(order)


def log_to_standard_error() -> None:
    survive_full_disks()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("ekiben").setLevel(logging.INFO)


def run_replica(order: Order, *, service: EkibenService | None = None) -> NoReturn:
    """Serve the order's model until SIGTERM, then end the process: 0 when all is well, 3 when it failed.

    Ends without the interpreter's own farewell, which would wait for engines' threads. A fork brings the
    Bento's `service` along; otherwise it is loaded.
    """
    die_with_parent(order.parent_pid)
    code = EXIT_FAILED
    channel = Channel(order.report_fd)
    try:
        channel.report(Report(stage=Stage.STARTING))
        prepare_process(order)
        if not _event_loop().run_until_complete(_serve(order, channel, service)):
            shutil.rmtree(order.folder, ignore_errors=True)  # nobody else is left to do so
        code = 0
    except SystemExit as end:  # the server's way to say that the startup failed; the host has said why
        code = end.code if isinstance(end.code, int) else EXIT_FAILED
    except Exception as error:
        logger.exception("the replica broke down")
        reason = f"the replica broke down: {type(error).__name__}: {error}"
        channel.report(Report(stage=Stage.FAILED, error=reason, out_of_memory=is_shortage(error)))
    finally:
        logging.shutdown()
        os._exit(code)


def prepare_process(order: Order) -> None:
    """Everything that a process of its own keeps to itself lies in the order's folder; it sees one device.

    BentoML and prometheus_client read these variables when they are imported, so not yet then; the
    libraries of devices when they are first used.
    """
    export_folder(order.folder)
    export(visible(order.device))
    tempfile.tempdir = None  # or an earlier look at TMPDIR would last


def export_folder(folder: Path) -> None:
    """Tell libraries to keep to this folder, and to themselves what they see."""
    scratch, metrics = folder / SCRATCH, folder / "metrics"
    for made in (scratch, metrics):
        made.mkdir(mode=0o700, exist_ok=True)
    export(
        {
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(folder / BENTOML_HOME),
            "ORT_DISABLE_TELEMETRY": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "TMPDIR": str(scratch),
        }
    )


async def _serve(order: Order, channel: Channel, service: EkibenService | None) -> bool:
    """Until it is told to stop. False when there is no platform any more."""
    if service is not None:
        from ekiben.runtime.bento import move_home

        move_home(order.folder / BENTOML_HOME)
    stages = _Stages("python" if service is None else "fork", ordered_s=order.ordered_s)
    service = service or load_service(order.bento)
    stages.end("imports")

    async def assign() -> Any:
        return assignment_of(order)

    async def told_to_go() -> None:
        stages.end("estimate")
        await channel.told_to_go()
        stages.end("held")

    host = ModelHost(
        assign,
        report=channel.report,
        told_to_go=None if order.go else told_to_go,
        tell_work=channel.tell_work,
    )
    app = service.replica_application(host)
    stages.end("app")

    from ekiben.runtime.server import ReplicaServer

    def on_ready() -> None:
        stages.end("load")
        gc.freeze()  # what is loaded stays: the collector need not walk through it again
        naps.tell_ready(stages.seconds)
        logger.info("ready: %s, %s", order.model.name, stages)
        custody.begin(order.parent_pid)
        handoffs.begin(order.socket)
        naps.begin()

    custody = Custody(orphan_s=order.orphan_s, on_abandoned=lambda: server.handle_exit(signal.SIGTERM, None))
    naps = Naps(host, channel, device=order.device, on_given_up=custody.give_up, on_failure=_end_at_once)
    handoffs = Handoffs()
    server = ReplicaServer(Adoptable(HandingOff(app, handoffs), custody), on_ready=on_ready)
    await server.serve([bind(order.socket)])
    handoffs.close()
    return not custody.orphaned


def _end_at_once() -> NoReturn:
    """No request runs, and the model is in no state to be unloaded."""
    logging.shutdown()
    os._exit(EXIT_FAILED)


def load_service(bento: Path) -> EkibenService:
    """The Bento's service, by BentoML's own loader. Raises LoadFailed when it is none of ours."""
    import bentoml

    from ekiben.runtime.bento import EkibenService

    service = bentoml.load(str(bento))
    if not isinstance(service, EkibenService):
        raise LoadFailed(f"{bento} is not a Bento of this platform: its service is {service!r}")
    # As BentoML's own workers do; its metrics carry these names.
    context = bentoml.server_context
    context.service_type = "entry_service"
    context.service_name = context.bento_name = service.name
    context.bento_version = "not available"
    return service


def bind(path: Path) -> socket.socket:
    """A unix socket that only this user may connect to. It listens once the model is loaded."""
    unbound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        unbound.bind(str(path))
    finally:
        os.umask(mask)
    return unbound


class _Stages:
    """How long the parts of a start took, beginning with the writing of its order."""

    def __init__(self, first: str, *, ordered_s: float) -> None:
        self._last_s = ordered_s
        self.seconds: dict[str, float] = {}
        self.end(first)

    def end(self, name: str) -> None:
        now_s = SYSTEM_CLOCK.monotonic()
        self.seconds[name] = round(now_s - self._last_s, 3)
        self._last_s = now_s

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.seconds.items())


def _event_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    main(sys.argv[1:])
