"""Thoughts and calls in what a model writes, and conversations as templates take them."""

from __future__ import annotations

from typing import Any

import pytest

from ekiben.contract import InvalidRequest, UnsupportedParameter
from ekiben_transformers.conversation import plain_messages, with_tools_told
from ekiben_transformers.formats import (
    HERMES,
    LLAMA,
    MISTRAL,
    CallFormat,
    PartReader,
    call_format,
    thinks,
)

CALL = '{"name": "get", "arguments": {"city": "Ōsaka"}}'


def read(
    text: str, calls: CallFormat | None, *, reasons: bool = False, thinking: bool = False, step: int = 1
) -> dict[str, Any]:
    """The answer, given in pieces of `step` characters."""
    reader = PartReader(calls, reasons=reasons, thinking=thinking)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    parts = [part for piece in pieces for part in reader.feed(piece)] + list(reader.finish())
    return {
        "text": "".join(part.text for part in parts),
        "reasoning": "".join(part.reasoning for part in parts),
        "calls": [part.call["function"] for part in parts if part.call is not None],
    }


def told(text: str = "", reasoning: str = "", *calls: str) -> dict[str, Any]:
    functions = [{"name": name, "arguments": '{"city": "Ōsaka"}'} for name in calls]
    return {"text": text, "reasoning": reasoning, "calls": functions}


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello <b>", told("Hello <b>")),
        (f"<tool_call>\n{CALL}\n</tool_call>", told("", "", "get")),
        (
            f"Wait.<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>",
            told("Wait.", "", "get", "get"),
        ),
        (f"<tool_call>{CALL}", told("", "", "get")),
        ("<tool_call>not a call</tool_call>", told("<tool_call>not a call")),
        ("a <tool", told("a <tool")),
        ("<think>hm</think>\n\nYes", told("<think>hm</think>\n\nYes")),
    ],
)
def test_calls_of_hermes(text: str, expected: dict[str, Any], step: int) -> None:
    assert read(text, HERMES, step=step) == expected


@pytest.mark.parametrize("step", [1, 1000])
def test_calls_of_others(step: int) -> None:
    assert read(f"[TOOL_CALLS][{CALL}, {CALL}]", MISTRAL, step=step) == told("", "", "get", "get")
    text = CALL.replace("arguments", "parameters")
    assert read(f"<|python_tag|>{text}", LLAMA, step=step) == told("", "", "get")


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_thoughts(step: int) -> None:
    read_with: dict[str, Any] = {"reasons": True, "step": step}
    assert read("<think>\nhm</think>\n\nYes", None, **read_with) == told("Yes", "\nhm")
    assert read("hm</think>Yes", None, thinking=True, **read_with) == told("Yes", "hm")
    assert read("hm </th", None, thinking=True, **read_with) == told("", "hm </th")
    assert read("Yes <think>", None, **read_with) == told("Yes <think>")
    both = f"<think>hm</think><tool_call>{CALL}</tool_call>"
    assert read(both, HERMES, **read_with) == told("", "hm", "get")


def test_formats_are_found_from_templates() -> None:
    assert call_format("{{ '[TOOL_CALLS]' }}") is MISTRAL
    assert call_format("{{ '<|python_tag|>' }}") is LLAMA
    assert call_format("{{ messages }}") is HERMES
    assert call_format("{{ messages }}", "llama") is LLAMA
    assert thinks("{% if '</think>' in content %}") and not thinks("{{ messages }}")


def test_conversations_become_plain() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get", "arguments": '{"a": 1}'}}
    plain = plain_messages(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "7"},
            {"role": "assistant", "content": None, "refusal": "no"},
        ]
    )
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message["content"] for message in plain] == ["Be brief.", "a\nb", "", "7", "no"]
    assert plain[2]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    told_of = with_tools_told(plain, [{"type": "function", "function": {"name": "get"}}])
    assert told_of[0]["role"] == "system" and told_of[0]["content"].startswith("Be brief.\n\n# Tools")
    assert told_of[2]["content"] == '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>'
    assert told_of[3] == {"role": "user", "content": "<tool_response>\n7\n</tool_response>"}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "name": "f", "content": "1"}, "messages.0"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages.0.content.0"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages.0.audio"),
    ],
)
def test_what_is_no_text_is_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        plain_messages([message])
    assert refused.value.param == param


def test_arguments_that_are_no_json_are_refused() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get", "arguments": "{"}}
    with pytest.raises(InvalidRequest, match="no JSON"):
        plain_messages([{"role": "assistant", "tool_calls": [call]}])
