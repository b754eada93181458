"""The audio family as a Bento; what it does is in `ekiben.runtime`."""

import bentoml

from ekiben.runtime.bento import AudioBento, EkibenService


@bentoml.service(
    name="ekiben-audio",
    service_class=EkibenService,
    resources={"cpu": "2", "memory": "2Gi"},
    traffic={"timeout": 600},
)
class Audio(AudioBento):
    """Transcription, or speech, of one model."""
