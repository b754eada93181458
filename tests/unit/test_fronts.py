"""The methods of abilities over a `Batching`, driven as simply as can be."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ekiben.contract import (
    Ability,
    DrawRequest,
    Item,
    Picture,
    Pixels,
    Rerankings,
    RerankRequest,
    Run,
    Step,
    TranscribedPiece,
    TranscribeRequest,
    TranscriptSegment,
)
from ekiben.contract.batching import GivenUp
from ekiben.contract.fronts import front
from ekiben.contract.testing import Alone


@dataclass
class Recording:
    """Half a minute of speech for each line of the file."""

    max_items: int = 2
    max_length: int | None = None
    closed: bool = False

    def items(self, request: TranscribeRequest) -> Iterator[Item[tuple[int, str]]]:
        try:
            for number, line in enumerate(request.audio.read_text().splitlines()):
                yield Item((number, line))
        finally:
            self.closed = True

    def prepare(self, values: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
        return values

    def compute(self, prepared: Sequence[tuple[int, str]], run: Run) -> list[TranscribedPiece]:
        return [
            TranscribedPiece(
                language="en" if number == 0 else "xx",
                duration_s=90.0,
                segments=[TranscriptSegment(text=line, start_s=30.0 * number, end_s=30.0 * number + 1)],
            )
            for number, line in prepared
        ]

    def answer(self, request: TranscribeRequest, results: Sequence[TranscribedPiece]) -> Any:
        raise AssertionError("transcripts are streamed")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "audio"
    path.write_text("one\ntwo\nthree\nfour\nfive")
    return path


async def test_the_pieces_of_a_recording_are_one_transcription(audio: Path) -> None:
    batching = Recording()
    answer = await front(Ability.TRANSCRIBE, Alone(batching)).transcribe(TranscribeRequest(audio=audio))
    assert (answer.language, answer.duration_s) == ("en", 90.0)
    segments = [segment async for segment in answer.segments]
    assert [segment.text for segment in segments] == ["one", "two", "three", "four", "five"]
    assert batching.closed


async def test_segments_that_nobody_reads_end_the_work_when_they_are_closed(audio: Path) -> None:
    closed = threading.Event()

    class Watched(Recording):
        def items(self, request: TranscribeRequest) -> Iterator[Item[tuple[int, str]]]:
            try:
                yield from super().items(request)
            finally:
                closed.set()

    answer = await front(Ability.TRANSLATE, Alone(Watched())).transcribe(TranscribeRequest(audio=audio))
    assert not closed.is_set()
    await answer.segments.aclose()
    assert closed.wait(10)


class Drawing:
    """A picture for each of n, in three steps."""

    max_items = 2
    max_length = None

    def items(self, request: DrawRequest) -> list[Item[int]]:
        return [Item(index) for index in range(request.n)]

    def prepare(self, values: Sequence[int]) -> Sequence[int]:
        return values

    def compute(self, prepared: Sequence[int], run: Run) -> list[Picture]:
        for done in range(1, 4):
            if not run.wanted:
                raise GivenUp
            for place, index in enumerate(prepared):
                run.tell(place, Step(index=index, done=done, total=3))
        pixels = Pixels(width=1, height=1, data=b"abc")
        return [Picture(index=index, pixels=pixels, seed=index) for index in prepared]

    def answer(self, request: DrawRequest, results: Sequence[Picture]) -> Any:
        raise AssertionError("pictures are streamed")


async def test_pictures_come_in_order_and_their_steps_before_them() -> None:
    asked = DrawRequest(prompt="a box", n=3)
    drawn = [it async for it in front(Ability.GENERATE_IMAGE, Alone(Drawing())).generate_image(asked)]
    assert [it.index for it in drawn if isinstance(it, Picture)] == [0, 1, 2]
    for index in range(3):
        own = [it for it in drawn if it.index == index]
        assert [it.done for it in own if isinstance(it, Step)] == [1, 2, 3]
        assert isinstance(own[-1], Picture)


async def test_closed_drawings_are_given_up() -> None:
    asked = DrawRequest(prompt="a box", n=3)
    async with aclosing(front(Ability.EDIT_IMAGE, Alone(Drawing())).edit_image(asked)) as drawn:
        assert isinstance(await anext(drawn), Step)


class Lengths:
    """Documents are as relevant as they are long."""

    max_items = 2
    max_length = 6

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def items(self, request: RerankRequest) -> list[Item[str]]:
        return [Item(document, length=len(document)) for document in request.documents]

    def prepare(self, values: Sequence[str]) -> list[str]:
        self.batches.append(list(values))
        return list(values)

    def compute(self, prepared: list[str], run: Run) -> list[float]:
        return [float(len(value)) for value in prepared]

    def answer(self, request: RerankRequest, results: Sequence[float]) -> Rerankings:
        return Rerankings(scores=list(results), prompt_tokens=len(results))


async def test_a_whole_answer_is_made_of_the_results_of_all_items() -> None:
    batching = Lengths()
    asked = RerankRequest(query="q", documents=["a", "bb", "cccc", "dddddddd", "e"])
    answer = await front(Ability.RERANK, Alone(batching)).rerank(asked)
    assert list(answer.scores) == [1.0, 2.0, 4.0, 8.0, 1.0]
    assert batching.batches == [["a", "bb"], ["cccc"], ["dddddddd"], ["e"]]


def test_what_is_not_computed_in_batches_has_no_front() -> None:
    with pytest.raises(ValueError, match="chat"):
        front(Ability.CHAT, Alone(Lengths()))
