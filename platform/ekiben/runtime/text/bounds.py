"""The ranges that OpenAI's documents give for the fields of text requests; its types do not hold them.

They also keep a request from being enormous by a number: the limits without a published value are set
far above what honest requests need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ekiben.errors import InvalidRequest, UnsupportedParameter

MAX_STOPS: Final = 4
MAX_TOOLS: Final = 128
MAX_BIASES: Final = 1024
MAX_ANSWERS: Final = 2048
"""Prompts of one request, times the answers that each is to get."""
MAX_TOKENS: Final = 2**31 - 1
MAX_METADATA: Final = 16
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 512

_SAMPLING: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "n": (1, 128),
    "max_tokens": (1, MAX_TOKENS),
    "seed": (-(2**63), 2**63 - 1),
}
_CHAT: Final = _SAMPLING | {"max_completion_tokens": (1, MAX_TOKENS), "top_logprobs": (0, 20)}
_COMPLETION: Final = _SAMPLING | {"best_of": (1, 128), "logprobs": (0, 5)}


def check_chat(body: Mapping[str, Any]) -> None:
    """For a body whose types are right. Raises InvalidRequest with `param`."""
    _check_ranges(body, _CHAT)
    _check_shared(body)
    _check_template(body)
    if not body["messages"]:
        raise InvalidRequest("'messages' is empty: send at least one", param="messages")
    _check_length(body, "tools", MAX_TOOLS)
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")


def check_completion(body: Mapping[str, Any]) -> None:
    """For a body whose types are right. Raises InvalidRequest with `param`."""
    _check_ranges(body, _COMPLETION)
    _check_shared(body)
    prompt = body["prompt"]
    if not prompt or (isinstance(prompt, list) and not all(entry != "" and entry != [] for entry in prompt)):
        raise InvalidRequest("'prompt' is empty: send a text, or tokens", param="prompt")
    n = body.get("n") or 1
    best_of = body.get("best_of") or n
    if best_of < n:
        raise InvalidRequest(f"'best_of' must be at least 'n', which is {n}", param="best_of")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    if prompts * best_of > MAX_ANSWERS:
        raise InvalidRequest(
            f"{prompts} prompts with {best_of} answers each are more than {MAX_ANSWERS}: "
            "send several requests",
            param="prompt",
        )


def _check_template(body: Mapping[str, Any]) -> None:
    """Templates are programs: they come with models, never with requests."""
    arguments = body.get("chat_template_kwargs")
    brought = {"chat_template": body.get("chat_template")}
    if isinstance(arguments, Mapping):
        brought["chat_template_kwargs.chat_template"] = arguments.get("chat_template")
    for name, value in brought.items():
        if value is not None:
            raise UnsupportedParameter(
                f"{name!r} is not taken from requests: the template is the model's own, or that of its spec",
                param=name,
            )


def _check_ranges(body: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (lowest, highest) in ranges.items():
        value = body.get(name)
        if value is not None and not lowest <= value <= highest:
            raise InvalidRequest(f"{name!r} must be from {lowest} to {highest}, not {value!r}", param=name)


def _check_shared(body: Mapping[str, Any]) -> None:
    stop = body.get("stop")
    if isinstance(stop, list):
        _check_length(body, "stop", MAX_STOPS)
    if stop == "" or (isinstance(stop, list) and "" in stop):
        raise InvalidRequest("'stop' holds an empty text: leave it out", param="stop")
    if body.get("stream_options") is not None and not body.get("stream"):
        raise InvalidRequest("'stream_options' needs 'stream' to be true", param="stream_options")
    if (body.get("stream_options") or {}).get("include_obfuscation"):
        raise UnsupportedParameter(
            "streams are not padded here: leave out 'include_obfuscation'",
            param="stream_options.include_obfuscation",
        )
    _check_biases(body.get("logit_bias") or {})
    check_metadata(body.get("metadata") or {})


def _check_biases(biases: Mapping[str, int]) -> None:
    if len(biases) > MAX_BIASES:
        raise InvalidRequest(f"'logit_bias' may have {MAX_BIASES} entries at most", param="logit_bias")
    for token, bias in biases.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise InvalidRequest(f"{token[:64]!r} is not the number of a token", param="logit_bias")
        if not -100 <= bias <= 100:
            raise InvalidRequest(f"a bias must be from -100 to 100, not {bias}", param=f"logit_bias.{token}")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises InvalidRequest."""
    fits = len(metadata) <= MAX_METADATA and all(
        len(key) <= MAX_METADATA_KEY and len(value) <= MAX_METADATA_VALUE for key, value in metadata.items()
    )
    if not fits:
        raise InvalidRequest(
            f"'metadata' may have {MAX_METADATA} entries, with {MAX_METADATA_KEY} characters in a key "
            f"and {MAX_METADATA_VALUE} in a value at most",
            param="metadata",
        )


def _check_length(body: Mapping[str, Any], name: str, limit: int) -> None:
    value = body.get(name) or ()
    if len(value) > limit:
        raise InvalidRequest(f"{name!r} may have {limit} entries at most, not {len(value)}", param=name)
