"""The engine protocol: how an engine says what it needs, loads, answers, cancels and unloads.

An engine plugin is imported only inside a replica, in a process of its own; the platform reads its
manifest. Import the engine's heavy library in `load`, not at module level, so that importing the
plugin is quick and cannot fail for want of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ekiben.contract.model import ModelSpec, Variant


@dataclass(frozen=True, slots=True)
class Device:
    """Where to run: `kind` is `cpu`, `cuda` or `rocm`; `index` counts among the devices made visible."""

    kind: str = "cpu"
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by which a load and the work after it will make the process grow, before it is tried.

    What the process holds already is not in it, so a library counts unless it is imported by now. Without
    a measured need it decides whether the model is started at all: reckon with the largest request that
    the options allow. The platform measures and learns afterwards.
    """

    weights_bytes: int
    """On the device of the request; of a model that is spread over several, on each of them."""
    working_bytes: int
    """There too: KV cache, activations, libraries and whatever else comes on top of the weights."""
    host_bytes: int = 0
    """What a load on a GPU holds of the host's memory besides. On the CPU everything is in the others."""

    @property
    def total_bytes(self) -> int:
        """On the device of the request, or on each of them."""
        return self.weights_bytes + self.working_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """One model to load, with everything decided."""

    model: ModelSpec
    variant: Variant
    weights: Path
    """The file or folder that the source delivered; read only."""
    options: Mapping[str, Any]
    """The manifest's defaults under the variant's options, already validated against the manifest."""
    device: Device
    """The first of `devices`."""
    threads: int
    """How many CPU threads the engine may use."""
    scratch: Path
    """A folder of this replica alone, mode 0700, removed when it ends: for sockets and temporary files."""
    cache: Path | None = None
    """A folder that outlives the replica, for what makes the model's next load worth more; not made yet. It
    may be emptied at any time, and several replicas of the model may use it at once. None: there is none."""
    report: Callable[[float], None]
    """Progress of the load, 0 to 1; may be called from any thread; never blocks."""
    companions: Mapping[str, Path] = field(default_factory=dict)
    """Further weights of the variant, by their names in the manifest; read only."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """LoRA adapters by name; `TextRequest.adapter` says which one a request wants."""
    more_devices: Sequence[Device] = ()
    """Besides `device`, of the same kind; for models that are spread over several."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """All of them, in order."""
        return (self.device, *self.more_devices)


class LoadedModel(Protocol):
    """A model in memory. Besides `unload` it has the methods of its abilities (`ekiben.contract.abilities`).

    All of them run on one event loop, which they must not block: give blocking work to a thread
    (`ekiben.contract.threads` helps). Cancelling the awaiting task, or closing the iterator, must end
    the engine's work for that request within a second and free what it held.
    """

    async def unload(self) -> None:
        """Free everything. Called once, after the last request ended or was cancelled. Must not raise."""


@runtime_checkable
class Sleeper(Protocol):
    """A LoadedModel that can sleep has these as well; offer them only where sleep frees what is scarce.

    A slept model keeps in its process whatever makes waking quicker than a load: weights in the host's
    memory, contexts, compiled kernels. Both are called on the event loop, which they must not block, one
    at a time and only when no request runs; none is let in before `wake` has returned. Neither is
    cancelled: when the platform wants the process to end meanwhile, it ends it.
    """

    async def sleep(self) -> None:
        """Free the device, as far as the library can. Called only while awake. Must not raise.

        Afterwards the model is asked for nothing but `wake` or `unload`.
        """

    async def wake(self) -> None:
        """Take the device again and answer as before. Called only after `sleep`.

        Raises `LoadFailed` when it cannot, for want of memory above all; the process is ended then.
        """


@runtime_checkable
class Countable(Protocol):
    """A LoadedModel whose engine can be asked how much it has in hand has this as well.

    Engines with metrics of their own, written by prometheus_client, need it not: those are shown anyway.
    """

    tokens_made: int
    """Of all answers since the load: also of those that were cancelled, until then."""

    async def answers_at_work(self) -> int:
        """How many answers hold something of the engine now: a slot, a row of the batch.

        By the engine's own books, not by requests that were let in: this is how it is seen that a request
        which was cancelled holds nothing any more. Asked for metrics, while requests run; cancelled after
        half a second. Raises EngineError when the engine does not say.
        """


class Engine(Protocol):
    """A plugin that runs models."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        """From the weights' headers and the options; quick, blocking, allocates nothing of size.

        Raises `LoadFailed` when the files are not what the engine can read.
        """

    async def load(self, request: LoadRequest) -> LoadedModel:
        """Bring the model to the point where it answers. Raises `LoadFailed` with what to do about it.

        Called once per process. May take minutes; cancelling it may end the process instead.
        """
