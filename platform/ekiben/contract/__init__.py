"""What a plugin may import, and nothing else of Ekiben.

`ekiben.contract` is stable within one `API_VERSION`; a plugin's manifest names the version it was
written for, and the platform refuses others before it imports anything of them.

Read `engine` to write an engine, `source` to bring weights from somewhere new, `policy` to decide what
stays in memory, `abilities` for the requests and answers of each ability, `manifest` for `plugin.toml`,
and `testing` for the conformance suite that every plugin, first-party ones too, runs over itself.
"""

from ekiben.contract.abilities import (
    AudioChunk,
    Chat,
    Complete,
    Embed,
    Embeddings,
    EmbedInput,
    EmbedRequest,
    OcrLine,
    OcrPage,
    OcrRequest,
    ReadText,
    Speak,
    SpeakRequest,
    TextRequest,
    Transcribe,
    TranscribeRequest,
    Transcription,
    TranscriptSegment,
    TranscriptWord,
)
from ekiben.contract.engine import Device, Engine, LoadedModel, LoadRequest, MemoryEstimate, Sleeper
from ekiben.contract.manifest import (
    API_VERSION,
    EngineSection,
    Manifest,
    Option,
    PluginKind,
    SourceSection,
)
from ekiben.contract.model import (
    ABILITIES_OF_FAMILY,
    Ability,
    Family,
    KeepAlive,
    ModelSpec,
    SourceSpec,
    Variant,
)
from ekiben.contract.policy import NOTABLE_GAP_S, Idle, Policy, Resident
from ekiben.contract.source import FetchProgress, FetchRequest, Source
from ekiben.errors import (
    ConfigError,
    EngineError,
    EngineTimeout,
    FetchFailed,
    InvalidRequest,
    LoadFailed,
    RequestTooLarge,
    UnsupportedParameter,
)

__all__ = [
    "ABILITIES_OF_FAMILY",
    "API_VERSION",
    "NOTABLE_GAP_S",
    "Ability",
    "AudioChunk",
    "Chat",
    "Complete",
    "ConfigError",
    "Device",
    "Embed",
    "EmbedInput",
    "EmbedRequest",
    "Embeddings",
    "Engine",
    "EngineError",
    "EngineSection",
    "EngineTimeout",
    "Family",
    "FetchFailed",
    "FetchProgress",
    "FetchRequest",
    "Idle",
    "InvalidRequest",
    "KeepAlive",
    "LoadFailed",
    "LoadRequest",
    "LoadedModel",
    "Manifest",
    "MemoryEstimate",
    "ModelSpec",
    "OcrLine",
    "OcrPage",
    "OcrRequest",
    "Option",
    "PluginKind",
    "Policy",
    "ReadText",
    "RequestTooLarge",
    "Resident",
    "Sleeper",
    "Source",
    "SourceSection",
    "SourceSpec",
    "Speak",
    "SpeakRequest",
    "TextRequest",
    "Transcribe",
    "TranscribeRequest",
    "TranscriptSegment",
    "TranscriptWord",
    "Transcription",
    "UnsupportedParameter",
    "Variant",
]
