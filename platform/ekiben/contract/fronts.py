"""The methods of an ability, over whatever drives its `Batching`.

A model that hands out a `Batching` has no method for that ability; a front has, and looks like any other
model to those who ask. It owns nothing: queues, threads and batches are the driver's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, Final, Protocol

from ekiben.contract.abilities import TranscribedPiece, TranscribeRequest, Transcription, TranscriptSegment
from ekiben.contract.model import Ability

METHOD_OF_WHOLE: Final[dict[Ability, str]] = {
    Ability.EMBED: "embed",
    Ability.RERANK: "rerank",
    Ability.MODERATE: "moderate",
    Ability.READ_TEXT: "read_text",
    Ability.CLASSIFY: "classify",
    Ability.DETECT: "detect",
}
"""Answered with what `Batching.answer` gives."""
METHOD_OF_STREAMED: Final[dict[Ability, str]] = {
    Ability.GENERATE_IMAGE: "generate_image",
    Ability.EDIT_IMAGE: "edit_image",
}
"""Answered with the news of all items as they come, and with their results in order."""
SPEECH: Final = frozenset({Ability.TRANSCRIBE, Ability.TRANSLATE})


class Driver(Protocol):
    """What computes the requests of one `Batching`."""

    async def run(self, request: Any) -> Any:
        """The whole answer. Cancelling it ends the work."""

    def stream(self, request: Any) -> AsyncGenerator[Any, None]:
        """Each item's result, as soon as it and those before it are there, and what was told of any item.

        Closing it ends the work.
        """


def front(ability: Ability, driver: Driver) -> Any:
    """An object of the ability's protocol."""
    if ability in SPEECH:
        return TranscribeFront(driver)
    if (method := METHOD_OF_STREAMED.get(ability)) is not None:
        return SimpleNamespace(**{method: driver.stream})
    if (method := METHOD_OF_WHOLE.get(ability)) is not None:
        return SimpleNamespace(**{method: driver.run})
    raise ValueError(f"{ability.value!r} is no ability that is computed in batches")


class TranscribeFront:
    """The pieces of a recording, as one transcription."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def transcribe(self, request: TranscribeRequest) -> Transcription:
        """Waits for the first piece, which tells of the recording."""
        pieces = self._driver.stream(request)
        try:
            first: TranscribedPiece = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        answer = Transcription(
            language=first.language,
            duration_s=first.duration_s,
            segments=pieces,
        )
        answer.segments = await _begun(_segments(answer, first, pieces))
        return answer


async def _segments(
    answer: Transcription, piece: TranscribedPiece, pieces: AsyncGenerator[TranscribedPiece, None]
) -> AsyncGenerator[Any, None]:
    """After something to begin with, each segment."""
    async with aclosing(pieces):
        yield None
        for segment in piece.segments:
            yield segment
        async for later in pieces:
            answer.duration_s = later.duration_s
            for segment in later.segments:
                yield segment


async def _begun(
    segments: AsyncGenerator[Any, None],
) -> AsyncGenerator[TranscriptSegment, None]:
    """Closing one that has not begun would not end the work."""
    await anext(segments)
    return segments
