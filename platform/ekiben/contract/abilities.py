"""One small protocol per ability: what a loaded model is asked, and what it answers.

A loaded model implements the protocols of the abilities that its spec names, and no others. Text
abilities speak OpenAI's own JSON, since the engines do; the rest use the plain values below, and the
runtime renders every response format from them.

For all methods: raise `InvalidRequest` (with `param`) for what the caller can mend, `UnsupportedParameter`
for a field that this engine cannot honour, `EngineError` for what went wrong inside. Cancellation: see
`ekiben.contract.engine.LoadedModel`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

from ekiben.contract.batching import Batched
from ekiben.contract.model import Ability
from ekiben.contract.pictures import Classify, Detect, EditImage, GenerateImage
from ekiben.errors import TooManyTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A chat completion or a completion."""

    body: Mapping[str, Any]
    """The request object, validated against OpenAI's types; unknown fields are kept."""
    raw: bytes
    """The same, as the client sent it."""
    stream: bool
    model: str
    """The name to put into answers."""
    request_id: str
    adapter: str | None = None
    """One of `LoadRequest.adapters`; None: the model as it is."""


@runtime_checkable
class Chat(Protocol):
    def chat(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        """JSON objects, encoded: one `chat.completion`, or with `request.stream` its
        `chat.completion.chunk`s in order (without SSE framing and without `[DONE]`; the usage chunk only
        if `stream_options.include_usage` asks for it).

        Errors that are known before the first object must be raised before it is yielded: later ones
        can only be told inside the stream.
        """


@runtime_checkable
class Complete(Protocol):
    def complete(self, request: TextRequest) -> AsyncGenerator[bytes, None]:
        """As `Chat.chat`, with `text_completion` objects."""


@dataclass(frozen=True, slots=True)
class EmbedImage:
    """A picture among the inputs, for models that have texts and pictures in one space."""

    png: bytes
    """As in `OcrRequest`."""


EmbedInput: TypeAlias = str | list[int] | EmbedImage
"""A text, its tokens by the model's own tokenizer, or a picture. `UnsupportedParameter` for pictures from
models that do not see."""

MAX_EMBED_TOKENS: Final = 300_000
"""Of all inputs of a request for vectors, as OpenAI has it."""


def check_embed_tokens(count: int) -> None:
    """Raises TooManyTokens. For engines to call as they count, before anything is computed."""
    if count > MAX_EMBED_TOKENS:
        raise TooManyTokens(
            f"requested at least {count} tokens, the limit of a request is {MAX_EMBED_TOKENS}: "
            "send the inputs in several requests"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    inputs: Sequence[EmbedInput]
    dimensions: int | None = None
    """Shorter vectors of a model trained for that; `UnsupportedParameter` from others."""
    prompt_name: str | None = None
    """Which of the model's prompts to put before each text; `InvalidRequest` for those that it has not."""
    input_type: Literal["query", "document"] | None = None
    """What the texts are: the model's prompt for it, if it has one."""
    max_tokens: int | None = None
    """Of each input; longer ones are cut, unless `truncate` is false."""
    truncate: bool | None = None
    """Whether longer inputs than the model takes are cut, or refused; None: as the model was set up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    vectors: memoryview
    """float32 in native byte order, C-contiguous, shape (inputs, dimensions)."""
    prompt_tokens: int


@runtime_checkable
class Embed(Protocol):
    async def embed(self, request: EmbedRequest) -> Embeddings:
        """One vector for each input, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    query: str
    documents: Sequence[str]
    """At least one."""
    max_tokens_per_document: int | None = None
    """Longer ones are cut; None: at what the model takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerankings:
    scores: Sequence[float]
    """One for each document, in the order of the request; higher is more relevant."""
    prompt_tokens: int


@runtime_checkable
class Rerank(Protocol):
    async def rerank(self, request: RerankRequest) -> Rerankings:
        """How well each document answers the query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """A text, or a conversation as the model's template renders it; one of the two."""

    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    """OpenAI's, validated against its types."""
    tools: Sequence[Mapping[str, Any]] = ()
    add_special_tokens: bool = True
    """For a text: what the tokenizer puts around it by itself."""
    add_generation_prompt: bool = True
    """For a conversation: whether it ends with the beginning of an answer."""
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    ids: Sequence[int]
    texts: Sequence[str]
    """What each token stands for; a piece of a character reads as U+FFFD."""


@runtime_checkable
class Tokenizer(Protocol):
    """A LoadedModel that shows its tokenizer has these as well, whatever its abilities."""

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Raises InvalidRequest where there is a conversation and no template for it."""

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Raises InvalidRequest for numbers that are no tokens."""

    @property
    def max_model_tokens(self) -> int:
        """Of one request, prompt and answer together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceActivity:
    """How speech is told from silence and noise."""

    threshold: float = 0.5
    """0 to 1: how sure the detector must be."""
    silence_s: float = 0.2
    """A pause as long as this ends a stretch of speech."""
    padding_s: float = 0.3
    """So much around speech is taken as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeRequest:
    audio: Path
    """A file as the client sent it, in any container; not trusted, so decode it with bounds."""
    translate: bool = False
    """To English, instead of a transcript in the language spoken."""
    language: str | None = None
    """ISO 639-1; None: detect."""
    prompt: str | None = None
    temperature: float | None = None
    """None: the engine's own schedule."""
    words: bool = False
    """Whether segments must carry word timestamps."""
    voice_activity: VoiceActivity | None = None
    """Hear only what is speech, found in this way; None: as the model has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptWord:
    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptSegment:
    text: str
    start_s: float
    end_s: float
    tokens: Sequence[int] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    seek: int = 0
    words: Sequence[TranscriptWord] = ()


@dataclass(slots=True, kw_only=True)
class Transcription:
    """The start of an answer: what is known at once, and the segments as they are made."""

    language: str
    """ISO 639-1."""
    duration_s: float
    """Of what has been decoded. The whole recording's, once all segments have come."""
    segments: AsyncGenerator[TranscriptSegment, None]
    """In order of time. Closing it ends the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribedPiece:
    """What a transcription's `Batching` gives for each item: a stretch of the recording.

    The pieces of a request come in order of time; their segments, one after the other, are the transcript.
    """

    language: str
    """ISO 639-1, and of the whole recording: what the first piece says, counts."""
    duration_s: float
    """Of what had been decoded of the recording; what the last piece says, counts."""
    segments: Sequence[TranscriptSegment] = ()
    """In order of time, counted from the recording's beginning; none where nobody speaks."""


@runtime_checkable
class Transcribe(Protocol):
    async def transcribe(self, request: TranscribeRequest) -> Transcription:
        """Decode, detect the language, and begin. Serves both `transcribe` and `translate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakRequest:
    text: str
    voice: str
    """One of `Speak.voices`; the runtime has resolved `default`."""
    speed: float = 1.0
    """0.25 to 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioChunk:
    """Speech as it is made: signed 16-bit native-endian mono samples."""

    samples: bytes
    sample_rate_hz: int
    last: bool = False
    """Whether it is known that none follows: files of a single chunk can tell their length at the front."""


@runtime_checkable
class Speak(Protocol):
    @property
    def voices(self) -> Sequence[str]:
        """At least one; the first is what `voice: "default"` means."""

    def speak(self, request: SpeakRequest) -> AsyncGenerator[AudioChunk, None]:
        """Chunks in order, the first as early as the engine can; the sample rate never changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrRequest:
    image: bytes
    """A PNG, JPEG, WebP, BMP, GIF or TIFF file, already checked for its pixel size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrLine:
    text: str
    score: float
    """0 to 1."""
    box: Sequence[tuple[float, float]]
    """Four corners in pixels, clockwise from the top left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrPage:
    width: int
    height: int
    lines: Sequence[OcrLine] = field(default_factory=tuple)
    """In reading order."""


@runtime_checkable
class ReadText(Protocol):
    async def read_text(self, request: OcrRequest) -> OcrPage:
        """All lines of text in the picture; none is a valid answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerateRequest:
    texts: Sequence[str]
    """At least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moderated:
    """What is held against one text."""

    scores: Mapping[str, float]
    """0 to 1 by category: OpenAI's names where the model knows of the like, its own for others."""
    flagged: frozenset[str] = frozenset()
    """The categories whose scores are above the model's thresholds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moderation:
    texts: Sequence[Moderated]
    """One for each text, in order."""
    prompt_tokens: int


@runtime_checkable
class Moderate(Protocol):
    async def moderate(self, request: ModerateRequest) -> Moderation:
        """Whether each of the texts is one that people would not want to read."""


PROTOCOL_OF: Final[dict[Ability, type]] = {
    Ability.CHAT: Chat,
    Ability.COMPLETE: Complete,
    Ability.EMBED: Embed,
    Ability.RERANK: Rerank,
    Ability.TRANSCRIBE: Transcribe,
    Ability.TRANSLATE: Transcribe,
    Ability.SPEAK: Speak,
    Ability.READ_TEXT: ReadText,
    Ability.CLASSIFY: Classify,
    Ability.DETECT: Detect,
    Ability.GENERATE_IMAGE: GenerateImage,
    Ability.EDIT_IMAGE: EditImage,
    Ability.MODERATE: Moderate,
}
"""What answers the requests of an ability."""


def has_ability(model: object, ability: Ability) -> bool:
    """Whether a loaded model has it: by a method of its own, or a `Batching` that the runtime works with."""
    return isinstance(model, PROTOCOL_OF[ability]) or (
        isinstance(model, Batched) and ability in model.batching
    )
