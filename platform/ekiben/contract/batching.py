"""What an engine offers for the runtime to compute the requests of many clients together.

An engine that gains by it does not queue or batch by itself: for an ability it hands out a `Batching`, which
says how a request is cut into items, how items are made ready and computed together, and how an answer is
put together from their results. The runtime's batcher does the rest, the same for every engine: the queue and
its bounds, which items go together and when, deadlines, cancellation, and whose fault a failed batch is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from ekiben.contract.model import Ability

Value = TypeVar("Value")
Asked = TypeVar("Asked", contravariant=True)
Result = TypeVar("Result")
Answered = TypeVar("Answered", covariant=True)


@dataclass(frozen=True, slots=True)
class Item(Generic[Value]):
    """The part of a request that is computed by itself: a text, a picture, half a minute of speech."""

    value: Value
    length: int = 1
    """What it costs beside others: its tokens, samples or pixels. In a batch, items are padded to the
    longest, so those of about one length are put together, unless the batching is `Packed`."""
    group: Hashable = None
    """Only items of equal groups are computed together: whatever a batch has once and not per item, such as a
    size or a number of steps."""


class GivenUp(Exception):
    """Raised by `compute` when it has seen that `Run.wanted` is false."""


class Run(Protocol):
    """One batch under way, as `compute` sees it. All of it may be used from its thread, and never blocks."""

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for any item. To be looked at several times a second: once it is false,
        end with `GivenUp`."""

    def waits_for(self, index: int) -> bool:
        """Whether anybody still waits for one item of the batch. Nobody will see the result of the others."""

    def tell(self, index: int, news: object) -> None:
        """Something about an item that is under way, for those who watch: a step, a preview."""


class Batching(Protocol[Asked, Value, Result, Answered]):
    """One ability of a loaded model, in parts. All methods block, and none is called on the event loop.

    `items`, `prepare` and `answer` are called on one thread and `compute` on another, so that one batch is
    made ready while another is computed; neither of the two is ever called twice at a time.
    """

    @property
    def max_items(self) -> int:
        """How many items one batch may have at most; at least 1."""

    @property
    def max_length(self) -> int | None:
        """How much one batch may cost: its number of items, times the length of the longest, or the lengths
        of all where it is `Packed`. A single item may cost more. None: any."""

    def items(self, request: Asked) -> Iterable[Item[Value] | None]:
        """At least one item of each request. Raises `InvalidRequest` and `UnsupportedParameter`.

        A list, where all are at hand. An iterator is read step by step, as far as its items are needed, and
        closed when nobody waits any more: so a long recording is never in memory whole. What it raises later
        is the request's fault as well. A step that has no item to hand out yet gives None, so that other
        requests have their turn on the thread; lists hold none.
        """

    def prepare(self, values: Sequence[Value]) -> Any:
        """What `compute` takes: padded, and as near to the device as can be."""

    def compute(self, prepared: Any, run: Run) -> Sequence[Result]:
        """One result for each item, in order. Raises `GivenUp`.

        Any other error fails the items of the batch, if there is only one. Of several, each half is computed
        anew, so that the one at fault fails alone; `InvalidRequest` is passed to its client as it is.
        """

    def answer(self, request: Asked, results: Sequence[Result]) -> Answered:
        """The whole answer from the results of all items, in the order of `items`. Not called for abilities
        whose answers are streamed: there each result is handed on as soon as those before it are there."""


@runtime_checkable
class Packed(Protocol):
    """A Batching that may compute items of all lengths together without padding has this as well."""

    @property
    def packs(self) -> bool:
        """Whether it does. Always the same."""


@runtime_checkable
class Batched(Protocol):
    """A LoadedModel that leaves the batching of some of its abilities to the runtime has this as well.

    For those abilities it needs no method of its own: the runtime makes one.
    """

    @property
    def batching(self) -> Mapping[Ability, Batching[Any, Any, Any, Any]]:
        """By ability. Always the same objects."""
