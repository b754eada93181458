"""The embedding family as a Bento; what it does is in `ekiben.runtime`."""

import bentoml

from ekiben.runtime.bento import EkibenService, EmbeddingBento


@bentoml.service(
    name="ekiben-embedding",
    service_class=EkibenService,
    resources={"cpu": "2", "memory": "2Gi"},
    traffic={"timeout": 600},
)
class Embedding(EmbeddingBento):
    """Embeddings, ranks or moderation by one model."""
