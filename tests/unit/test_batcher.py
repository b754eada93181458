"""The batcher with real threads: who is answered, what is dropped, whose fault it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ekiben.errors import EngineError, EngineTimeout, InvalidRequest, QueueFull, ShuttingDown
from ekiben.runtime.batching.batcher import Batcher, Lane
from ekiben.runtime.batching.selection import Choice, Reason
from tests.unit.batching_world import PATIENCE_S, Asked, Shouting


class Seen:
    """What the metrics are told."""

    def __init__(self) -> None:
        self.choices: list[Choice] = []
        self.waits: list[float] = []

    def waited(self, ability: str, seconds: float) -> None:
        self.waits.append(seconds)

    def left(self, ability: str, choice: Choice) -> None:
        self.choices.append(choice)


@pytest.fixture
async def seen() -> Seen:
    return Seen()


@pytest.fixture
async def batcher(seen: Seen) -> AsyncIterator[Batcher]:
    batcher = Batcher(watch=seen, max_requests=8, max_items=16, patience_s=PATIENCE_S)
    yield batcher
    await batcher.close()


def lane(batching: Shouting) -> Lane:
    return Lane("shout", batching, target_s=None)


async def entered(batching: Shouting) -> None:
    """A batch is being computed."""
    assert await asyncio.to_thread(batching.entered.acquire, timeout=PATIENCE_S)


def ask(batcher: Batcher, lane: Lane, *words: str, **more: object) -> asyncio.Task[list[str]]:
    return asyncio.create_task(batcher.run(lane, Asked(words, **more)))  # type: ignore[arg-type]


async def settled() -> None:
    """All that threads have done is known to the loop."""
    for _ in range(20):
        await asyncio.to_thread(lambda: None)


async def test_an_answer_has_its_items_in_order(batcher: Batcher) -> None:
    batching = Shouting()
    words = [f"{'x' * (n * 7 % 11)}{n}" for n in range(23)]
    assert await batcher.run(lane(batching), Asked(words)) == [word.upper() for word in words]
    assert sorted(chain(*batching.batches)) == sorted(words)
    assert max(map(len, batching.batches)) <= batching.max_items


async def test_what_waits_is_computed_together(batcher: Batcher, seen: Seen) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    first = ask(batcher, shout, "a")
    await entered(batching)
    others = [ask(batcher, shout, word) for word in "bcd"]
    await settled()
    batching.go.release(9)
    assert await asyncio.gather(first, *others) == [["A"], ["B"], ["C"], ["D"]]
    assert len(batching.batches[0]) == 1
    assert len(batching.batches) <= 3, "the first batches are small, to learn what they cost"
    assert len(seen.waits) == 4
    assert seen.choices[0].reason in (Reason.FULL, Reason.ALL)


async def test_a_full_batch_is_ready_before_the_one_before_it_is_done(batcher: Batcher, seen: Seen) -> None:
    batching = Shouting(max_items=2)
    shout = lane(batching)
    await batcher.run(shout, Asked("abcdefgh"))
    batching.held = True
    first = ask(batcher, shout, "i", "j")
    await entered(batching)
    before = len(seen.choices)
    others = [ask(batcher, shout, word) for word in "kl"]
    await settled()
    assert [len(choice.picks) for choice in seen.choices[before:]] == [2]
    batching.go.release(9)
    assert await asyncio.gather(first, *others) == [["I", "J"], ["K"], ["L"]]


async def test_one_item_does_not_wait_behind_many() -> None:
    batcher = Batcher()
    batching = Shouting(held=True)
    shout = lane(batching)
    many = ask(batcher, shout, *(f"m{n}" for n in range(40)))
    await entered(batching)
    one = ask(batcher, shout, "one")
    await settled()
    batching.go.release(3)
    assert await one == ["ONE"]
    assert not many.done()
    batching.go.release(100)
    assert len(await many) == 40
    await batcher.close()


async def test_a_bad_item_fails_alone(batcher: Batcher, seen: Seen) -> None:
    batching = Shouting(held=True, max_items=8)
    shout = lane(batching)
    tasks = [ask(batcher, shout, "a")]
    await entered(batching)
    tasks += [ask(batcher, shout, word) for word in ("b", "bad", "c", "d", "e", "f")]
    await settled()
    batching.go.release(99)
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [it for it in done if not isinstance(it, Exception)] == [["A"], ["B"], ["C"], ["D"], ["E"], ["F"]]
    (error,) = [it for it in done if isinstance(it, Exception)]
    assert isinstance(error, EngineError) and "ValueError" in error.message
    assert Reason.RETRY in {choice.reason for choice in seen.choices}


async def test_what_the_client_can_mend_is_told_as_it_is(batcher: Batcher) -> None:
    with pytest.raises(InvalidRequest, match="refused") as told:
        await batcher.run(lane(Shouting()), Asked(["refused"]))
    assert told.value.param == "words"


async def test_a_request_without_items_is_the_engine_s_fault(batcher: Batcher) -> None:
    with pytest.raises(EngineError, match="nothing to compute"):
        await batcher.run(lane(Shouting()), Asked([]))


async def test_groups_never_mix(batcher: Batcher) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    tasks = [ask(batcher, shout, "first")]
    await entered(batching)
    tasks += [ask(batcher, shout, f"w{n}", group=n % 3) for n in range(7)]
    await settled()
    batching.go.release(99)
    await asyncio.gather(*tasks)
    assert all(len(groups) == 1 for groups in batching.groups)


async def test_lanes_never_mix_and_share_the_threads(batcher: Batcher) -> None:
    shouting, other = Shouting(held=True), Shouting()
    shout, second = lane(shouting), Lane("other", other, target_s=None)
    first = ask(batcher, shout, "a")
    await entered(shouting)
    later = [ask(batcher, second, "b"), ask(batcher, shout, "c")]
    await settled()
    assert not other.batches, "a model computes one batch at a time"
    shouting.go.release(9)
    assert await asyncio.gather(first, *later) == [["A"], ["B"], ["C"]]
    assert (shouting.batches, other.batches) == ([["a"], ["c"]], [["b"]])


async def test_what_is_cancelled_while_it_waits_is_never_computed(batcher: Batcher) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    first = ask(batcher, shout, "a")
    await entered(batching)
    ghost, last = ask(batcher, shout, "ghost"), ask(batcher, shout, "last")
    await settled()
    ghost.cancel()
    await asyncio.wait({ghost})
    batching.go.release(9)
    assert (await first, await last) == (["A"], ["LAST"])
    assert "ghost" not in chain(*batching.batches)


async def test_a_batch_that_nobody_waits_for_is_given_up(batcher: Batcher) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    only = ask(batcher, shout, "only")
    await entered(batching)
    only.cancel()
    await asyncio.wait({only})
    next_ = ask(batcher, shout, "next")
    await entered(batching)
    assert batching.given_up == [["only"]]
    batching.go.release()
    assert await next_ == ["NEXT"]


async def test_the_queue_is_bounded_by_requests(batcher: Batcher) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    tasks = [ask(batcher, shout, f"w{n}") for n in range(8)]
    await entered(batching)
    await settled()
    with pytest.raises(QueueFull) as full:
        await batcher.run(shout, Asked(["more"]))
    assert full.value.status == 429 and int(full.value.headers()["retry-after"]) >= 1
    batching.go.release(99)
    await asyncio.gather(*tasks)
    assert await batcher.run(shout, Asked(["more"])) == ["MORE"]


async def test_the_queue_is_bounded_by_items_but_takes_any_single_request(batcher: Batcher) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    large = ask(batcher, shout, *map(str, range(40)))
    await entered(batching)
    with pytest.raises(QueueFull):
        await batcher.run(shout, Asked(["more"]))
    batching.go.release(99)
    assert len(await large) == 40


async def test_patience_ends() -> None:
    batcher = Batcher(patience_s=0.05)
    batching = Shouting(held=True)
    with pytest.raises(EngineTimeout):
        await batcher.run(lane(batching), Asked(["never"]))
    await batcher.close()
    assert batching.given_up == [["never"]]


async def test_a_client_may_have_less_patience(batcher: Batcher) -> None:
    batching = Shouting(held=True)
    shout = lane(batching)
    patient = ask(batcher, shout, "patient")
    await entered(batching)
    with pytest.raises(EngineTimeout, match=r"within 0\.05 s"):
        await batcher.run(shout, Asked(["hasty"]), patience_s=0.05)
    batching.go.release(99)
    assert await patient == ["PATIENT"]


async def test_closing_sends_away_who_waits() -> None:
    batcher = Batcher()
    batching = Shouting(held=True)
    shout = lane(batching)
    tasks = [ask(batcher, shout, "a")]
    await entered(batching)
    tasks.append(ask(batcher, shout, "b"))
    await settled()
    await batcher.close()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(it) for it in done] == [ShuttingDown, ShuttingDown]
    with pytest.raises(ShuttingDown):
        await batcher.run(shout, Asked(["late"]))


async def test_a_stream_tells_results_in_order_and_news_before_them(batcher: Batcher) -> None:
    words = ["a", "news", "bbbbbb", "c", "more news", "d"]
    async with aclosing(batcher.stream(lane(Shouting(max_items=2)), Asked(words))) as told:
        all_told = [it async for it in told]
    assert [it for it in all_told if it.isupper()] == [word.upper() for word in words]
    assert all_told.index("news of news") < all_told.index("NEWS")


async def test_an_iterator_is_read_no_further_than_needed_and_closed(batcher: Batcher) -> None:
    batching = Shouting(held=True, max_items=2)
    stream = batcher.stream(lane(batching), Asked([f"w{n}" for n in range(50)], lazy=True))
    first = asyncio.ensure_future(anext(stream))
    await entered(batching)
    await settled()
    assert len(batching.read) <= 1 + 2 * batching.max_items
    batching.go.release()
    assert await first == "W0"
    await stream.aclose()
    assert await asyncio.to_thread(batching.closed.acquire, timeout=PATIENCE_S)
    assert len(batching.read) < 12


async def test_what_an_iterator_raises_later_is_the_request_s_fault(batcher: Batcher) -> None:
    stream = batcher.stream(lane(Shouting()), Asked(["a", "b", "broken"], lazy=True))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        async for _ in stream:
            pass


async def test_whole_answers_of_iterators(batcher: Batcher) -> None:
    words = [f"w{n}" for n in range(30)]
    assert await batcher.run(lane(Shouting()), Asked(words, lazy=True)) == [w.upper() for w in words]


REQUESTS = st.lists(
    st.builds(
        Asked,
        words=st.lists(st.sampled_from(["a", "bb", "cccc", "dddddddd", "bad"]), min_size=1, max_size=12),
        group=st.integers(0, 2),
        lazy=st.booleans(),
        name=st.sampled_from(["stays", "stays", "leaves"]),
    ),
    min_size=1,
    max_size=10,
)


@given(requests=REQUESTS, max_items=st.integers(1, 5), max_length=st.none() | st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_everybody_is_answered_once_and_as_asked(
    requests: list[Asked], max_items: int, max_length: int | None
) -> None:
    asyncio.run(_storm(requests, Shouting(max_items=max_items, max_length=max_length)))


async def _storm(requests: list[Asked], batching: Shouting) -> None:
    batcher = Batcher(patience_s=PATIENCE_S)
    shout = lane(batching)

    async def one(number: int, asked: Asked) -> object:
        for _ in range(number % 4):
            await asyncio.sleep(0)
        if number % 3:
            return await batcher.run(shout, asked)
        return [it async for it in batcher.stream(shout, asked)]

    tasks = [asyncio.create_task(one(number, asked)) for number, asked in enumerate(requests)]
    await asyncio.sleep(0)
    for task, asked in zip(tasks, requests, strict=True):
        if asked.name == "leaves":
            task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for asked, answer in zip(requests, answers, strict=True):
        if asked.name == "leaves":
            assert isinstance(answer, asyncio.CancelledError)
        elif "bad" in asked.words:
            assert isinstance(answer, EngineError)
        else:
            assert answer == [word.upper() for word in asked.words]
    assert not batcher._jobs
    await batcher.close()
    for batch, groups in zip(batching.batches, batching.groups, strict=True):
        assert len(groups) == 1 and len(batch) <= batching.max_items
        if batching.max_length is not None and len(batch) > 1:
            assert len(batch) * max(map(len, batch)) <= batching.max_length
