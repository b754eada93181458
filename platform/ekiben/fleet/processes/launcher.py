"""How the processes of replicas are started.

`Launcher` is the interface; `SpawnLauncher` starts a fresh interpreter for each replica. A replica is in
its own session (so that a Ctrl-C meant for the platform does not reach it), ends when the platform ends
unless another adopts it, and writes to its model's log.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from ekiben.fleet.processes.adoption import Adopted, adopt
from ekiben.fleet.processes.berths import Berth, Berths, Plan, log_path
from ekiben.fleet.processes.children import ReplicaProcess
from ekiben.fleet.types import Address, ZygoteStatus
from ekiben.plugins.environments import PLATFORM_INTERPRETER, Interpreter
from ekiben.runtime.protocol import Report

__all__ = [
    "Adopted",
    "InterpreterOf",
    "Launcher",
    "Plan",
    "Process",
    "SpawnLauncher",
    "always_ours",
    "log_path",
    "spawn",
]

logger = logging.getLogger(__name__)

InterpreterOf: TypeAlias = Callable[[str], Interpreter]
"""What runs an engine, by its name, at this moment."""


def always_ours(engine: str) -> Interpreter:
    """The platform's own interpreter, whatever the engine."""
    return PLATFORM_INTERPRETER


class Process(Protocol):
    """A replica's process, from the fleet's side."""

    @property
    def pid(self) -> int | None:
        """None for the moment that it takes to make it."""

    @property
    def address(self) -> Address:
        """Where it will listen."""

    def go(self) -> None:
        """Let it load, when it was launched to wait with that. Once; harmless when it is gone."""

    def sleep(self) -> None:
        """Have a ready replica that can sleep give its device back. It reports that it has."""

    def wake(self) -> None:
        """Have a slept replica take its device again. It reports that it is ready."""

    def terminate(self) -> None:
        """Ask it to let its requests end and to go. Harmless when it is gone."""

    def kill(self) -> None:
        """End it. Harmless when it is gone."""

    def memory_bytes(self) -> int | None:
        """What it holds of the host's memory now; None when it is gone."""

    def memory(self) -> dict[str, int] | None:
        """What it and all that it started hold now: `cpu`, and the device it runs on, to bytes.

        None when it is gone. Blocks for about a millisecond a gigabyte; may be called from any thread.
        """


class Launcher(Protocol):
    def launch(
        self,
        replica_id: str,
        *,
        plan: Plan,
        go: bool,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> Process:
        """Start a process; returns at once. Raises OSError when no process can be started.

        Without `go` it reports what its engine will take, while it is `starting`, and waits for
        `Process.go` before it loads. `on_exit` is called exactly once, after the last report, with the
        reason in words.
        """

    async def adopt(
        self, *, wanted: Callable[[Plan], bool], on_exit: Callable[[str, str], None]
    ) -> Sequence[Adopted]:
        """The ready replicas of an earlier platform on this home that run as `wanted`; all others are ended.

        Called once, before the first launch. `on_exit` gets the replica's id and a reason.
        """

    def zygotes(self) -> Sequence[ZygoteStatus]:
        """The warm processes that it keeps."""

    def stop_zygote(self, engine: str) -> None:
        """Give up an engine's warm process; the next start makes it anew. Harmless when there is none."""

    def close(self) -> None:
        """Remove what is left on disk. Only after every process has ended."""


class SpawnLauncher:
    """A fresh interpreter per replica: `python -m ekiben.runtime.replica ORDER`."""

    def __init__(
        self,
        *,
        berths: Berths,
        environment: Mapping[str, str],
        interpreter_of: InterpreterOf = always_ours,
    ) -> None:
        self._berths = berths
        self._environment = environment
        self._interpreter_of = interpreter_of

    def launch(
        self,
        replica_id: str,
        *,
        plan: Plan,
        go: bool,
        on_report: Callable[[Report], None],
        on_exit: Callable[[str], None],
    ) -> Process:
        berth = self._berths.prepare(replica_id, plan, go=go)
        process = ReplicaProcess(berth, device=plan.device, on_report=on_report, on_exit=on_exit)
        try:
            spawn(
                process,
                berth,
                interpreter=self._interpreter_of(plan.engine),
                environment=self._environment,
            )
        except OSError:
            process.abandon()
            raise
        return process

    async def adopt(
        self, *, wanted: Callable[[Plan], bool], on_exit: Callable[[str, str], None]
    ) -> Sequence[Adopted]:
        return await adopt(self._berths.leftovers(), wanted=wanted, on_exit=on_exit)

    def zygotes(self) -> Sequence[ZygoteStatus]:
        return ()

    def stop_zygote(self, engine: str) -> None:
        """There are none."""

    def close(self) -> None:
        self._berths.close()


def spawn(
    process: ReplicaProcess, berth: Berth, *, interpreter: Interpreter, environment: Mapping[str, str]
) -> None:
    """Give the replica a fresh process. Raises OSError when there can be none."""
    variables = interpreter.variables(environment)
    child = subprocess.Popen(
        [str(interpreter.python), "-m", "ekiben.runtime.replica", str(berth.order_path)],
        stdin=subprocess.DEVNULL,
        stdout=berth.log_fd,
        stderr=berth.log_fd,
        pass_fds=(berth.report_fd,),
        start_new_session=True,
        env={**variables, "EKIBEN_ORDER": str(berth.order_path), "PYTHONUNBUFFERED": "1"},
    )
    process.attach(child.pid, wait=child.wait)
    logger.info("model %s: replica %s is process %d, spawned", berth.model, berth.replica_id, child.pid)
