"""`python -P -m ekiben.runtime.estimate`: what a replica would hold, told without starting one.

An assignment comes as JSON on stdin, one line goes out on stdout: a need or an error. Only the engine's
plugin is imported, not its library. It dies with who asked; what the plugin prints goes to stderr.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from ekiben.contract.model import ModelSpec
from ekiben.contract.parent import die_with_parent
from ekiben.errors import EkibenError
from ekiben.runtime.host import Assignment, prepare_load
from ekiben.runtime.process.devices import as_seen, parts

REPLICA_BYTES: Final = 96 * 2**20
"""What a replica holds before its engine does anything: Python and the server; measured."""


class EstimateRequest(BaseModel):
    """A plan, as far as an estimate depends on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelSpec
    variant: int
    weights: Path
    companions: dict[str, Path] = Field(default_factory=dict)
    adapters: dict[str, Path] = Field(default_factory=dict)
    device: str
    threads: int
    parent_pid: int


class EstimateAnswer(BaseModel):
    """`memory`, or why there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: dict[str, int] | None = None
    """Bytes by device, of the whole replica."""
    error: str | None = None


def main() -> None:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        request = EstimateRequest.model_validate_json(sys.stdin.buffer.read())
        die_with_parent(request.parent_pid)
        out.write(answer(request).model_dump_json() + "\n")


def answer(request: EstimateRequest) -> EstimateAnswer:
    """Whatever a plugin does wrong ends here, as one sentence."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return EstimateAnswer(memory=_memory(request, Path(scratch)))
    except EkibenError as error:
        return EstimateAnswer(error=error.message)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        text = " ".join(str(error).split())
        engine = request.model.variants[request.variant].engine
        reason = f"{type(error).__name__}: {text[:300]}"
        return EstimateAnswer(error=f"the engine {engine!r} cannot tell what the model takes: {reason}")


def _memory(request: EstimateRequest, scratch: Path) -> dict[str, int]:
    assignment = Assignment(
        model=request.model,
        variant=request.variant,
        weights=request.weights,
        companions=request.companions,
        adapters=request.adapters,
        device=as_seen(request.device),
        threads=request.threads,
        scratch=scratch,
    )
    engine, load = prepare_load(assignment, report=lambda progress: None)
    estimate = engine.estimate_memory(load)
    if load.device.kind == "cpu":
        return {"cpu": REPLICA_BYTES + estimate.total_bytes}
    on_devices = dict.fromkeys(parts(request.device), estimate.total_bytes)
    return {"cpu": REPLICA_BYTES + estimate.host_bytes} | on_devices


if __name__ == "__main__":
    main()
