"""The llm family as a Bento; what it does is in `ekiben.runtime`."""

import bentoml

from ekiben.runtime.bento import EkibenService, LlmBento


@bentoml.service(
    name="ekiben-llm",
    service_class=EkibenService,
    resources={"cpu": "2", "memory": "4Gi"},
    traffic={"timeout": 600},
)
class Llm(LlmBento):
    """Chat and completions of one language model."""
