"""Which of vLLM's parsers read a model's tool calls and its reasoning, told from its chat template.

A template shows the model how others wrote their calls, and so it shows how the model writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_TOOL_MARKS: Final = (
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<arg_key>", "glm45"),
    ("<function=", "qwen3_coder"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<|tool_call|>", "granite"),
    ("<start_function_call>", "functiongemma"),
    ("<|channel|>", "openai"),
)
"""The first that a template holds."""
DEFAULT_TOOL_PARSER: Final = "hermes"
"""The most common way, `<tool_call>{…}</tool_call>`. It reads nothing into other texts."""

_REASONING_MARKS: Final = (
    ("<|channel|>", "openai_gptoss"),
    ("◁think▷", "kimi_k2"),
    ("[THINK]", "mistral"),
    ("enable_thinking", "qwen3"),
    ("<think>", "deepseek_r1"),
)
_EFFORT_MARKS: Final = ("reasoning_effort", "enable_thinking")


def tool_parser(template: str) -> str:
    """Its name."""
    return next((name for mark, name in _TOOL_MARKS if mark in template), DEFAULT_TOOL_PARSER)


def reasoning_parser(template: str) -> str | None:
    """Its name, where the model reasons."""
    return next((name for mark, name in _REASONING_MARKS if mark in template), None)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a model can make sense of, by its template."""

    effort: bool
    """`reasoning_effort`."""
    developer: bool
    """Messages of the role `developer`; to others they come from `system`, as they did before."""
    tools: bool
    """What tools there are; others call only where they must, and never learn what for."""


def knowledge(template: str) -> Knowledge:
    """Of the model with this template."""
    return Knowledge(
        effort=any(mark in template for mark in _EFFORT_MARKS),
        developer="developer" in template,
        tools=not template or "tools" in template,  # without one vLLM renders in ways of its own
    )
