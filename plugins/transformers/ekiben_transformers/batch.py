"""Continuous batching: the library's scheduler and paged cache, stepped on one thread of our own.

Requests join and leave the batch between two steps. The library samples for a whole batch alike; here every
request chooses its own token, so the runner's last step is replaced, and nothing else of it.
"""

from __future__ import annotations

import asyncio
import mmap
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Final
from uuid import uuid4

import torch
from torch.overrides import TorchFunctionMode
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from ekiben.contract import EngineError
from ekiben_transformers.answer import Piece, Writer

PAGE_TOKENS: Final = 32
"""Of the cache; prompts share whole pages."""
_IDLE_S: Final = 60.0
"""A thread that waits is woken by what comes; this only bounds the wait."""

Delivery = tuple["Seat", Piece | Exception]


class Seat:
    """An answer's place in the batch, and where its pieces come out."""

    def __init__(self, writer: Writer) -> None:
        self.id = uuid4().hex
        self.writer = writer
        self.pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()


class _Row(RequestState):
    """What the library keeps of a request. It asks the writer whether the answer is over."""

    seat: Seat
    deliver: Callable[[Seat, Piece | Exception], None]

    def update_and_check_completion(self, token_id: int, logprob: float | None) -> bool:
        self.generated_tokens.append(token_id)
        self.tokens_to_process = [token_id]
        try:
            piece = self.seat.writer.accept(token_id)
        except Exception as error:  # noqa: BLE001 - the answer's own failure, told to its reader
            self.deliver(self.seat, error)
            self.status = RequestStatus.FINISHED
            return True
        if piece.text or piece.scores or piece.finish_reason:
            self.deliver(self.seat, piece)
        if piece.finish_reason is None:
            return False
        self.status = RequestStatus.FINISHED
        return True


class _Runner(ModelRunner):
    """The library's runner of a step, with choices by each request."""

    def _sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        outputs: Any = self.inputs_and_outputs
        rows = [future.state for future in outputs.requests_in_batch if future.has_new_token]
        logits = scores[0]
        likeliest = logits.argmax(-1)
        chosen = likeliest.tolist()
        for index, row in enumerate(rows):
            writer: Writer = row.seat.writer
            if not writer.is_plain:
                try:
                    chosen[index] = writer.choose(logits[index])
                except Exception as error:  # noqa: BLE001 - the others of the batch go on
                    row.deliver(row.seat, error)
        tokens = torch.tensor(chosen, dtype=output_ids.dtype, device=output_ids.device)
        output_ids[0, : len(chosen)].copy_(tokens)


class _Outlet:
    """Where the library would send whole outputs. Only failures come this way."""

    def deliver(self, output: Any) -> None:
        """Nothing: the pieces have been told."""

    def deliver_batch(self, outputs: list[Any]) -> None:
        """Nothing: the pieces have been told."""

    def fail_and_deliver(self, state: _Row, error: Exception) -> None:
        state.status = RequestStatus.FAILED
        state.deliver(state.seat, EngineError(f"the batch failed: {type(error).__name__}: {error}"))


class Batch:
    """The model at work. Its methods are for the event loop, unless they say otherwise."""

    def __init__(
        self,
        model: Any,
        *,
        context: int,
        parallel: int,
        step_tokens: int,
        shares_prefixes: bool,
        before_step: Callable[[list[tuple[str | None, int]]], None] | None = None,
    ) -> None:
        """Blocking: it takes the memory of the cache. `step_tokens`: computed in one step at most.

        `before_step` is told, on the batch's thread, the adapter and the number of tokens of each request.
        """
        self._model = model
        self._processor = _processor(model, context, parallel, step_tokens, shares_prefixes)
        self._told: list[Delivery] = []
        self._chores: deque[Iterator[None]] = deque()
        self._new_chores: queue.SimpleQueue[Iterator[None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._before_step = before_step

    @property
    def rows(self) -> int:
        """Answers that are computed; those that wait to be are not in it."""
        return len(self._processor.scheduler.active_requests)

    async def write(self, writer: Writer) -> AsyncGenerator[Piece, None]:
        """The pieces of an answer. Closing this takes it out of the batch."""
        self._start()
        seat = Seat(writer)
        row = _Row(request_id=seat.id, initial_tokens=list(writer.ask.prompt), max_new_tokens=None)
        row.seat, row.deliver = seat, self._tell
        over = False
        self._processor.input_queue.put(row)
        self._wake.set()
        try:
            while not over:
                piece = await seat.pieces.get()
                over = isinstance(piece, Exception) or piece.finish_reason is not None
                if isinstance(piece, Exception):
                    self._leave(seat)
                    raise piece
                yield piece
        finally:
            if not over:
                self._leave(seat)

    async def run(self, chore: Iterator[None]) -> None:
        """Have a blocking iterator stepped between the steps of the batch. Cancelling drops the rest."""
        self._start()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone = threading.Event()
        self._new_chores.put(_watched(chore, done, gone))
        self._wake.set()
        try:
            await done
        finally:
            gone.set()

    def stop(self) -> None:
        """End the thread after the step that runs. Blocking."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _leave(self, seat: Seat) -> None:
        self._processor.cancel_queue.put(seat.id)
        self._wake.set()

    def _start(self) -> None:
        if self._thread is None:
            self._home = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name="batch", daemon=True)
            self._thread.start()

    def _tell(self, seat: Seat, piece: Piece | Exception) -> None:
        self._told.append((seat, piece))

    def _work(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.set_device(self._model.device)
        while not self._stopping:
            self._wake.clear()
            busy = self._take_step()
            busy = self._take_chores() or busy
            self._flush()
            if not busy:
                self._wake.wait(_IDLE_S)

    def _take_step(self) -> bool:
        """One step of the batch. Whether there was anything to do."""
        processor = self._processor
        try:
            if not processor.prepare_next_batch():
                return bool(processor.has_pending_requests())
            self._announce(processor.inputs_and_outputs.requests_in_batch)
            processor._generation_step(self._model)
            processor.update_batch()
        except Exception as error:  # noqa: BLE001 - told to all who were in it
            processor.fail_all_requests(error)
            processor.reset()
        return True

    def _announce(self, futures: list[Any]) -> None:
        """Who is in the step that comes."""
        rows = [(future.state.seat.writer, future.query_length) for future in futures]
        for writer, tokens in rows:
            if not writer.written:
                writer.read += tokens
        if self._before_step is not None:
            self._before_step([(writer.ask.adapter, tokens) for writer, tokens in rows])

    def _take_chores(self) -> bool:
        while not self._new_chores.empty():
            self._chores.append(self._new_chores.get())
        if not self._chores:
            return False
        chore = self._chores.popleft()
        with torch.inference_mode():
            if next(chore, _ENDED) is not _ENDED:
                self._chores.append(chore)
        return True

    def _flush(self) -> None:
        told, self._told = self._told, []
        if told and self._home is not None and not self._home.is_closed():
            self._home.call_soon_threadsafe(_hand_out, told)


_ENDED: Final = object()


def _hand_out(told: list[Delivery]) -> None:
    for seat, piece in told:
        seat.pieces.put_nowait(piece)


def _watched(chore: Iterator[None], done: asyncio.Future[None], gone: threading.Event) -> Iterator[None]:
    """The chore, until it ends or nobody waits for it any more."""
    loop = done.get_loop()

    def settle(error: Exception | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    failure: Exception | None = None
    try:
        for step in chore:
            if gone.is_set():
                return
            yield step
    except Exception as error:  # noqa: BLE001 - handed to the one who waits
        failure = error
    loop.call_soon_threadsafe(settle, failure)


class _UntouchedZeros(TorchFunctionMode):
    """Zeros on the host that the kernel gives when they are first read.

    The library writes a whole cache of zeros, which takes most of a second for a gigabyte, and the memory.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        device = torch.device(options.get("device") or "cpu")
        if func is torch.zeros and device.type == "cpu" and options.get("dtype") is torch.uint8:
            return torch.frombuffer(mmap.mmap(-1, int(args[0])), dtype=torch.uint8)
        return func(*args, **options)


def _processor(model: Any, context: int, parallel: int, step_tokens: int, shares: bool) -> Any:
    """The library's, with room for `parallel` requests of `context` tokens."""
    pages = parallel * -(-context // PAGE_TOKENS) + parallel
    manager = ContinuousBatchingManager(
        model,
        GenerationConfig(do_sample=False),  # type: ignore[no-untyped-call]
        ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages,
            max_batch_tokens=max(step_tokens, parallel),
            max_requests_per_batch=parallel,
            allow_block_sharing=shares,
            use_async_batching=False,
            use_cuda_graph=False,
            safety_margin=0.0,
        ),
    )
    with _UntouchedZeros():
        processor: Any = manager._create_batch_processor()
    processor.output_router = _Outlet()
    processor.model_runner = _Runner(
        logit_processor=processor.logit_processor,
        cb_config=processor.cb_config,
        cache=processor.cache,
        inputs_and_outputs=processor.inputs_and_outputs,
        do_sample=False,
        return_logprobs=False,
    )
    return processor
