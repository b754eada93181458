"""One picture to be made, out of a request for several."""

from __future__ import annotations

from dataclasses import dataclass

from ekiben_diffusers.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    settings: Settings
    index: int
    """Which of the request's pictures."""
    seed: int
    prompt: str
    negative_prompt: str | None
    prompt_tokens: int
    previews: int
    images: tuple[bytes, ...]
    mask: bytes | None
