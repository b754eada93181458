"""Which fields of a text request mean nothing here, and which an engine must honour or refuse by name."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

from ekiben.errors import UnsupportedParameter

OPENAI_SAMPLING: Final = frozenset(
    {"frequency_penalty", "logit_bias", "presence_penalty", "stop", "temperature", "top_p"}
)

NEEDLESS: Final = frozenset(
    {
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "stream",
        "stream_options",
        "user",
    }
)
"""Accepted, and without a meaning for an engine."""

NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
}
"""Accepted with the values that ask for nothing."""

_MAX_SHOWN: Final = 64


def honoured(
    body: Mapping[str, Any], *, engine: str, passed: Set[str], translated: Set[str]
) -> dict[str, Any]:
    """The fields in `passed` that the body gives. `translated` ones are the caller's own affair.

    `engine` is its name in messages. Raises UnsupportedParameter for the first field that nobody honours.
    """
    given: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in translated or name in NEEDLESS or value in NEUTRAL.get(name, ()):
            continue
        if name not in passed:
            shown = name[:_MAX_SHOWN]
            raise UnsupportedParameter(f"{shown!r} cannot be honoured by {engine}: leave it out", param=shown)
        given[name] = value
    return given
