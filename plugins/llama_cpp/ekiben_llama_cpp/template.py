"""Chat templates: the model's own, made to know tools where it does not."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from ekiben.contract.gguf import GgufModel

CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What llama.cpp assumes of a model that brings no template."""

TEMPLATE_FIELDS: Final = ("reasoning_effort", "enable_thinking")

_TOOL_TEMPLATE: Final = "tokenizer.chat_template.tool_use"
"""A second template that some models bring for requests with tools."""


def template_for(model: GgufModel, override: str | None) -> str:
    """The template to load the model with; empty: its own, as it is.

    llama.cpp drops the tools of a request without a word when the template does not mention them. The
    format put in front of such a template is the one that most models were trained on (Hermes), and
    llama.cpp reads calls back out of it as it does with any template's.
    """
    own = override or model.chat_template
    if own is None and model.has_chat_template:
        return ""  # too long to be read here
    if own is not None and "tools" in own:
        return override or ""
    if override is None and _TOOL_TEMPLATE in model.metadata:
        return ""
    prelude = files(__package__).joinpath("tool_calls.jinja").read_text(encoding="utf-8")
    return prelude + (own or CHATML)


def fields_of(model: GgufModel, override: str | None) -> frozenset[str]:
    """Which of the fields that templates may read, and requests may set, this one reads."""
    template = override or model.chat_template or ""
    return frozenset(name for name in TEMPLATE_FIELDS if name in template)
