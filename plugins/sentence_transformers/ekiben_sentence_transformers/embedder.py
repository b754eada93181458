"""A loaded model, and the batches that its waiting requests share.

Whatever waits when the model is free is computed together, a share of each request, so that a request of
one sentence does not wait for the end of one with two thousand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ekiben.contract import Embeddings, EmbedInput, EmbedRequest, EngineError
from ekiben.contract.threads import WorkerThread
from ekiben_sentence_transformers.encoder import Encoder, Stop, Stopped, Vectors

MAX_BATCH_LENGTH: Final = 2**19
"""Characters or tokens: what is read for one batch cannot be interrupted, so it must not take long."""


@dataclass(eq=False)
class Job:
    """A request under way."""

    inputs: Sequence[EmbedInput]
    done: asyncio.Future[None]
    left: deque[int]
    """What has not been computed, longest first: inputs of one length waste no padding."""
    rows: dict[int, Vectors] = field(default_factory=dict)
    prompt_tokens: int = 0

    @property
    def of_texts(self) -> bool:
        return isinstance(self.inputs[0], str)


@dataclass
class Batch:
    """What the model computes at once."""

    picks: list[tuple[Job, int]]
    stop: Stop = field(default_factory=Stop)

    @property
    def inputs(self) -> list[EmbedInput]:
        return [job.inputs[index] for job, index in self.picks]


class Embedder:
    """The LoadedModel."""

    def __init__(self, encoder: Encoder, worker: WorkerThread, *, batch_size: int) -> None:
        self._encoder = encoder
        self._worker = worker
        self._batch_size = batch_size
        self._jobs: list[Job] = []
        self._batch = Batch([])
        self._running: asyncio.Task[None] | None = None

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self._encoder.check(request)
        if not self._encoder.truncates:
            await self._worker.run(self._encoder.check_lengths, request.inputs)
        job = await self._compute(request.inputs)
        rows = np.stack([job.rows[index] for index in range(len(job.inputs))])
        vectors = self._encoder.finish(rows, request.dimensions)
        return Embeddings(vectors=vectors.data, prompt_tokens=job.prompt_tokens)

    async def unload(self) -> None:
        self._batch.stop.wanted = True
        if self._running is not None:
            self._running.cancel()
        self._worker.close()

    async def _compute(self, inputs: Sequence[EmbedInput]) -> Job:
        longest_first = sorted(range(len(inputs)), key=lambda index: -len(inputs[index]))
        job = Job(inputs, asyncio.get_running_loop().create_future(), deque(longest_first))
        self._jobs.append(job)
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="embedding batches")
        try:
            await job.done
        finally:
            self._forget(job)
        return job

    def _forget(self, job: Job) -> None:
        """A job that was cancelled takes its share of the batch along, and the batch if it is alone in it."""
        if job in self._jobs:
            self._jobs.remove(job)
        if all(other.done.done() for other, _ in self._batch.picks):
            self._batch.stop.wanted = True

    async def _run(self) -> None:
        """Compute batch after batch until nothing waits."""
        try:
            while self._jobs:
                self._batch = self._next_batch()
                try:
                    rows, counts = await self._worker.run(
                        self._encoder.encode, self._batch.inputs, self._batch.stop
                    )
                except Stopped:
                    continue
                except EngineError as error:
                    self._fail(error)
                else:
                    self._deliver(rows, counts)
        finally:
            self._running = None

    def _next_batch(self) -> Batch:
        """An equal share of each job that waits, oldest first, of one kind of input, not too long in all."""
        kind = self._jobs[0].of_texts
        waiting = [job for job in self._jobs if job.of_texts is kind and job.left]
        share = max(1, self._batch_size // len(waiting))
        picks: list[tuple[Job, int]] = []
        room = MAX_BATCH_LENGTH
        for job in waiting:
            for _ in range(min(share, len(job.left), self._batch_size - len(picks))):
                room -= len(job.inputs[job.left[0]])
                if room < 0 and picks:
                    return Batch(picks)
                picks.append((job, job.left.popleft()))
        return Batch(picks)

    def _deliver(self, rows: Vectors, counts: list[int]) -> None:
        for (job, index), row, count in zip(self._batch.picks, rows, counts, strict=True):
            job.rows[index] = row
            job.prompt_tokens += count
            if len(job.rows) == len(job.inputs) and not job.done.done():
                job.done.set_result(None)
                self._jobs.remove(job)

    def _fail(self, error: EngineError) -> None:
        """Nobody's input is known to be the cause, so all who share the batch are told."""
        for job, _ in self._batch.picks:
            if not job.done.done():
                job.done.set_exception(error)
                self._jobs.remove(job)


class SleepyEmbedder(Embedder):
    """One that can leave its GPU and wait on the host: a LoadedModel and a Sleeper."""

    def __init__(self, encoder: Encoder, worker: WorkerThread, *, batch_size: int, device: str) -> None:
        super().__init__(encoder, worker, batch_size=batch_size)
        self._device = device

    async def sleep(self) -> None:
        await self._worker.run(self._encoder.move, "cpu")

    async def wake(self) -> None:
        await self._worker.run(self._encoder.move, self._device)
