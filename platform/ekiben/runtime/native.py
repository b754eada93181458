"""BentoML's own API of each family: a few typed methods that its documentation page can try out.

Each family's class is the base of the class in its Bento's `service.py`. The methods ask the same
loaded model as the OpenAI routes do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast

import bentoml
from bentoml.exceptions import BentoMLException
from bentoml.validators import ContentType
from pydantic import Field

from ekiben.contract import abilities, pictures
from ekiben.contract.model import Ability, Family
from ekiben.errors import EkibenError, InvalidRequest
from ekiben.runtime.host import ModelHost
from ekiben.runtime.vision import ocr
from ekiben.runtime.vision.darkroom import darkroom
from ekiben.runtime.vision.formats import PictureFormat
from ekiben.runtime.vision.recognition import rendered_detection, rendered_labels

F = TypeVar("F", bound=Callable[..., Any])


class FamilyBento:
    """What the families share: the way to the model."""

    family: ClassVar[Family]
    host: ModelHost
    """Set by the service on its instance, before the first request."""

    def able(self, ability: Ability) -> Any:
        """What to ask the model through, if it has the ability. Raises InvalidRequest."""
        model = self.host.model
        if ability not in model.abilities:
            can = ", ".join(sorted(model.abilities))
            raise InvalidRequest(f"the model {model.name!r} cannot {ability.value}: it can {can}")
        return self.host.able(ability)


def _api(method: F) -> F:
    """`bentoml.api`, for type checkers, which see nothing of BentoML."""
    api: F = bentoml.api(method)
    return api


def _task(method: F) -> F:
    """`bentoml.task`: besides, it can be submitted, and its answer be fetched later, if that is JSON."""
    task: F = bentoml.task(method)
    return task


@contextmanager
def _as_bentoml_errors() -> Iterator[None]:
    """BentoML shows the message of its own exceptions below 500, and hides all others."""
    try:
        yield
    except EkibenError as error:
        raise BentoMLException(error.message, error_code=HTTPStatus(error.status)) from error


class LlmBento(FamilyBento):
    family = Family.LLM

    @_api
    async def generate(
        self,
        prompt: str = Field(default="Name three fruits.", description="what to answer"),
        max_tokens: int = Field(default=128, ge=1, description="longest answer, in tokens"),
    ) -> AsyncGenerator[str, None]:
        """Answer a prompt; the text is streamed as it is made."""
        with _as_bentoml_errors():
            async with aclosing(self._objects(prompt, max_tokens)) as objects:
                async for item in objects:
                    for choice in json.loads(item)["choices"]:
                        text = choice.get("text") or choice.get("delta", {}).get("content")
                        if text:
                            yield text

    def _objects(self, prompt: str, max_tokens: int) -> AsyncGenerator[bytes, None]:
        body: dict[str, Any] = {"model": self.host.model.name, "max_tokens": max_tokens, "stream": True}
        if Ability.CHAT in self.host.model.abilities:
            body["messages"] = [{"role": "user", "content": prompt}]
            chat: abilities.Chat = self.able(Ability.CHAT)
            return chat.chat(self._request(body))
        body["prompt"] = prompt
        complete: abilities.Complete = self.able(Ability.COMPLETE)
        return complete.complete(self._request(body))

    def _request(self, body: dict[str, Any]) -> abilities.TextRequest:
        return abilities.TextRequest(
            body=body,
            raw=json.dumps(body).encode(),
            stream=True,
            model=self.host.model.name,
            request_id="",
        )


class EmbeddingBento(FamilyBento):
    family = Family.EMBEDDING

    @_api
    async def embed(
        self,
        texts: Annotated[list[str], Field(min_length=1, max_length=2048, examples=[["a box of lunch"]])],
    ) -> list[list[float]]:
        """One vector for each text, in order."""
        with _as_bentoml_errors():
            model: abilities.Embed = self.able(Ability.EMBED)
            result = await model.embed(abilities.EmbedRequest(inputs=texts))
            return cast("list[list[float]]", result.vectors.tolist())

    @_api
    async def rerank(
        self,
        query: Annotated[str, Field(min_length=1, examples=["When does the train leave?"])],
        documents: Annotated[
            list[str],
            Field(min_length=1, max_length=10_000, examples=[["departures at nine", "boil the rice"]]),
        ],
    ) -> list[float]:
        """How well each document answers the query, in order; higher is more relevant."""
        with _as_bentoml_errors():
            model: abilities.Rerank = self.able(Ability.RERANK)
            result = await model.rerank(abilities.RerankRequest(query=query, documents=documents))
            return list(result.scores)

    @_api
    async def moderate(
        self,
        texts: Annotated[list[str], Field(min_length=1, max_length=2048, examples=[["a box of lunch"]])],
    ) -> list[dict[str, Any]]:
        """For each text the score of each category, and the categories that are held against it."""
        with _as_bentoml_errors():
            model: abilities.Moderate = self.able(Ability.MODERATE)
            result = await model.moderate(abilities.ModerateRequest(texts=texts))
            return [{"scores": dict(text.scores), "flagged": sorted(text.flagged)} for text in result.texts]


class AudioBento(FamilyBento):
    family = Family.AUDIO

    @_task
    async def transcribe(self, audio: Path, language: str | None = None) -> dict[str, Any]:
        """The words of a recording, in any common format."""
        with _as_bentoml_errors():
            model: abilities.Transcribe = self.able(Ability.TRANSCRIBE)
            request = abilities.TranscribeRequest(audio=audio, language=language)
            result = await model.transcribe(request)
            async with aclosing(result.segments) as segments:
                found = [segment async for segment in segments]
        return {
            "language": result.language,
            "duration": result.duration_s,
            "text": "".join(segment.text for segment in found).strip(),
            "segments": [
                {"start": segment.start_s, "end": segment.end_s, "text": segment.text} for segment in found
            ],
        }

    @_api
    async def speak(
        self,
        ctx: bentoml.Context,
        text: str = Field(default="Good morning.", min_length=1, max_length=4096),
        voice: str = "default",
    ) -> Annotated[Path, ContentType("audio/wav")]:
        """A WAV file of the text, spoken."""
        with _as_bentoml_errors():
            model: abilities.Speak = self.able(Ability.SPEAK)
            voices = list(model.voices)
            if voice != "default" and voice not in voices:
                raise InvalidRequest(f"there is no voice {voice!r} (known: {', '.join(voices)})")
            request = abilities.SpeakRequest(text=text, voice=voices[0] if voice == "default" else voice)
            path = Path(ctx.temp_dir) / "speech.wav"
            await _write_wav(path, model.speak(request))
            return path


async def _write_wav(path: Path, speech: AsyncGenerator[abilities.AudioChunk, None]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        started = False
        async with aclosing(speech) as chunks:
            async for chunk in chunks:
                if not started:
                    file.setframerate(chunk.sample_rate_hz)
                    started = True
                file.writeframes(chunk.samples)
        if not started:
            raise InvalidRequest("there is nothing to speak in this text", param="text")


async def _write_png(path: Path, drawing: AsyncGenerator[pictures.Drawn, None]) -> Path:
    async with aclosing(drawing):
        async for news in drawing:
            if isinstance(news, pictures.Picture):
                path.write_bytes(await asyncio.to_thread(PictureFormat().encode, news.pixels))
    return path


class VisionBento(FamilyBento):
    family = Family.VISION

    @_api
    async def generate_image(
        self,
        ctx: bentoml.Context,
        prompt: str = Field(default="a lunch box", min_length=1, description="what to draw"),
        negative_prompt: str | None = None,
        steps: int | None = Field(default=None, ge=1),
        guidance: float | None = Field(default=None, ge=0),
        seed: int | None = Field(default=None, ge=0, lt=2**63),
    ) -> Annotated[Path, ContentType("image/png")]:
        """A picture of a text."""
        with _as_bentoml_errors():
            model: pictures.GenerateImage = self.able(Ability.GENERATE_IMAGE)
            request = pictures.DrawRequest(
                prompt=prompt, negative_prompt=negative_prompt, steps=steps, guidance=guidance, seed=seed
            )
            return await _write_png(Path(ctx.temp_dir) / "picture.png", model.generate_image(request))

    @_task
    async def generate_images(
        self,
        prompt: str = Field(default="a lunch box", min_length=1, description="what to draw"),
        n: int = Field(default=1, ge=1, le=10, description="how many pictures"),
        negative_prompt: str | None = None,
        steps: int | None = Field(default=None, ge=1),
        guidance: float | None = Field(default=None, ge=0),
        seed: int | None = Field(default=None, ge=0, lt=2**63),
    ) -> list[str]:
        """Pictures of a text, as PNG files in base64."""
        with _as_bentoml_errors():
            model: pictures.GenerateImage = self.able(Ability.GENERATE_IMAGE)
            request = pictures.DrawRequest(
                prompt=prompt, negative_prompt=negative_prompt, n=n, steps=steps, guidance=guidance, seed=seed
            )
            async with aclosing(model.generate_image(request)) as drawing:
                drawn = {news.index: news async for news in drawing if isinstance(news, pictures.Picture)}
        files = [await asyncio.to_thread(PictureFormat().encode, drawn[index].pixels) for index in range(n)]
        return [base64.b64encode(file).decode() for file in files]

    @_api
    async def edit_image(
        self,
        ctx: bentoml.Context,
        image: Path,
        prompt: str = Field(default="a lunch box", description="what to make of it"),
        strength: float | None = Field(default=None, ge=0, le=1),
        steps: int | None = Field(default=None, ge=1),
        seed: int | None = Field(default=None, ge=0, lt=2**63),
    ) -> Annotated[Path, ContentType("image/png")]:
        """A picture made from another one."""
        with _as_bentoml_errors():
            model: pictures.EditImage = self.able(Ability.EDIT_IMAGE)
            request = pictures.DrawRequest(prompt=prompt, strength=strength, steps=steps, seed=seed)
            async with darkroom().developed(image) as upright:
                drawing = model.edit_image(replace(request, images=(upright,)))
                return await _write_png(Path(ctx.temp_dir) / "picture.png", drawing)

    @_task
    async def read_text(self, image: Path) -> dict[str, Any]:
        """The lines of text in a picture or on the pages of a PDF, with their boxes and scores."""
        with _as_bentoml_errors():
            return await ocr.read(image, self.able(Ability.READ_TEXT))

    @_api
    async def classify(
        self,
        image: Path,
        labels: Annotated[list[str], Field(description="what to choose from; empty: the model's own")] = [],  # noqa: B006
        top_k: int = Field(default=5, ge=1, description="how many of the likeliest labels to show"),
    ) -> list[dict[str, Any]]:
        """What a picture shows: the likeliest labels with their scores."""
        with _as_bentoml_errors():
            model: pictures.Classify = self.able(Ability.CLASSIFY)
            async with darkroom().developed(image) as upright:
                found = await model.classify(pictures.ClassifyRequest(image=upright, labels=labels))
        return rendered_labels(found[:top_k])

    @_api
    async def detect(
        self,
        image: Path,
        threshold: float = Field(default=0.5, ge=0, le=1, description="objects of lower scores are left out"),
    ) -> dict[str, Any]:
        """The objects in a picture, with their boxes and scores."""
        with _as_bentoml_errors():
            model: pictures.Detect = self.able(Ability.DETECT)
            async with darkroom().developed(image) as upright:
                found = await model.detect(pictures.DetectRequest(image=upright, threshold=threshold))
        return rendered_detection(found)
