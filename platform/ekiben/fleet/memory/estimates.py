"""What engines say that plans will need, for those that were never started. Asked in short processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from ekiben.errors import LoadFailed
from ekiben.fleet.processes.berths import Plan
from ekiben.fleet.processes.launcher import InterpreterOf, always_ours
from ekiben.fleet.run_key import RunKey
from ekiben.runtime.estimate import EstimateAnswer, EstimateRequest

DEADLINE_S: Final = 20.0
ESTIMATES_KEPT: Final = 500
ARGUMENTS: Final = ("-P", "-m", "ekiben.runtime.estimate")


@dataclass(frozen=True, slots=True)
class _Told:
    """An estimate holds as long as the file or folder that it was made of is the same."""

    changed_ns: int
    need: Mapping[str, int]


class Estimates:
    """Remembers answers for as long as it lives."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        interpreter_of: InterpreterOf = always_ours,
        command: Sequence[str] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`command` is asked instead of the engine's interpreter."""
        self._environment = environment
        self._interpreter_of = interpreter_of
        self._command = command
        self._deadline_s = deadline_s
        self._told: dict[RunKey, _Told] = {}

    async def need(self, plan: Plan) -> Mapping[str, int]:
        """Bytes by device of a replica of the plan. Raises LoadFailed when the engine cannot tell.

        Takes a second, unless it was asked before. Cancelling it ends the process.
        """
        key, changed_ns = RunKey.of(plan), _changed_ns(plan)
        told = self._told.get(key)
        if told is None or told.changed_ns != changed_ns:
            told = _Told(changed_ns, await self._ask(plan))
            self._told[key] = told
            if len(self._told) > ESTIMATES_KEPT:
                del self._told[next(iter(self._told))]
        return told.need

    async def _ask(self, plan: Plan) -> Mapping[str, int]:
        request = EstimateRequest(
            model=plan.model,
            variant=plan.variant,
            weights=plan.weights,
            companions=dict(plan.companions),
            adapters=dict(plan.adapters),
            device=plan.device,
            threads=plan.threads,
            parent_pid=os.getpid(),
        )
        try:
            async with asyncio.timeout(self._deadline_s):
                line = await self._run(plan.engine, request.model_dump_json().encode())
            answer = EstimateAnswer.model_validate_json(line)
        except TimeoutError:
            reason = f"it did not answer within {self._deadline_s:g} s"
            raise LoadFailed(
                f"the engine {plan.engine!r} cannot tell what the model takes: {reason}"
            ) from None
        except ValidationError:
            reason = "its process broke down"
            raise LoadFailed(
                f"the engine {plan.engine!r} cannot tell what the model takes: {reason}"
            ) from None
        if answer.memory is None:
            raise LoadFailed(answer.error or f"the engine {plan.engine!r} cannot tell what the model takes")
        return answer.memory

    async def _run(self, engine: str, request: bytes) -> bytes:
        interpreter = self._interpreter_of(engine)
        process = await asyncio.create_subprocess_exec(
            *(self._command or (str(interpreter.python), *ARGUMENTS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=interpreter.variables(self._environment),
        )
        try:
            out, _ = await process.communicate(request)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return out


def _nothing_told(plan: Plan, reason: str) -> LoadFailed:
    return LoadFailed(f"the engine {plan.engine!r} cannot tell what {plan.model.name!r} takes: {reason}")


def _changed_ns(plan: Plan) -> int:
    try:
        return max(path.stat().st_mtime_ns for path in plan.files)
    except OSError:
        return 0
