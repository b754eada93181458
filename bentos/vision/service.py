"""The vision family as a Bento; what it does is in `ekiben.runtime`."""

import bentoml

from ekiben.runtime.bento import EkibenService, VisionBento


@bentoml.service(
    name="ekiben-vision",
    service_class=EkibenService,
    resources={"cpu": "2", "memory": "2Gi"},
    traffic={"timeout": 600},
)
class Vision(VisionBento):
    """Text in pictures, read by one model."""
