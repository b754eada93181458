"""Which of vLLM's parsers read a model's tool calls and its reasoning, told from its chat template.

A template shows the model how others wrote their calls, and so it shows how the model writes them.
"""

from __future__ import annotations

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


def knows_effort(template: str) -> bool:
    """Whether `reasoning_effort` means anything to the model."""
    return any(mark in template for mark in _EFFORT_MARKS)
