"""Prefixes: what begins alike has hashes in common, what does not has none, and the work is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.gateway.relay.prefixes import (
    BLOCK_BYTES,
    MAX_PREFIXES,
    MESSAGE_BYTES,
    chat_prefixes,
    prompt_prefixes,
)


def chat(*texts: str, **more: Any) -> bytes:
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "m", "messages": messages} | more).encode()


def prompt(value: object) -> bytes:
    return json.dumps({"model": "m", "prompt": value}).encode()


def common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """How many of the beginnings are equal."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), len(left))


@given(st.lists(st.text(), max_size=8), st.lists(st.text(), max_size=8), st.lists(st.text(), max_size=8))
def test_chats_share_as_many_hashes_as_first_messages(
    shared: list[str], left: list[str], right: list[str]
) -> None:
    one, other = [*shared, *left], [*shared, *right]
    alike = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    expected = min(len(one), len(other)) if alike is None else alike
    hashes = chat_prefixes(chat(*one)), chat_prefixes(chat(*other))
    assert [len(each) for each in hashes] == [len(one), len(other)]
    assert len(set(hashes[0]) & set(hashes[1])) == expected


def test_a_conversation_keeps_its_hashes_when_it_grows_and_its_options_change() -> None:
    first = chat_prefixes(chat("be brief", "hello", temperature=0.1))
    later = chat_prefixes(chat("be brief", "hello", "hi", "and now?", stream=True, max_tokens=3))
    assert later[:2] == first


def test_messages_do_not_run_into_each_other() -> None:
    assert common(chat_prefixes(chat("ab", "c")), chat_prefixes(chat("a", "bc"))) == 0


def test_tools_are_part_of_the_beginning() -> None:
    assert common(chat_prefixes(chat("hello", tools=[{"a": 1}])), chat_prefixes(chat("hello"))) == 0


def test_a_long_message_counts_with_its_beginning_and_its_length() -> None:
    start = "x" * MESSAGE_BYTES
    assert chat_prefixes(chat(start + "a")) == chat_prefixes(chat(start + "b"))
    assert chat_prefixes(chat(start + "a")) != chat_prefixes(chat(start + "aa"))


def test_a_conversation_of_any_length_has_a_bounded_number() -> None:
    assert len(chat_prefixes(chat(*"a" * 1000))) == MAX_PREFIXES
    assert len(prompt_prefixes(prompt("a" * BLOCK_BYTES * 1000))) == MAX_PREFIXES


@pytest.mark.parametrize("grown", ["x" * 50, "x" * 3 * BLOCK_BYTES])
def test_a_growing_prompt_keeps_the_hashes_of_its_whole_blocks(grown: str) -> None:
    start = "".join(f"line {n}\n" for n in range(500))
    first, later = prompt_prefixes(prompt(start)), prompt_prefixes(prompt(start + grown))
    assert len(first) >= 3
    assert later[: len(first)] == first


def test_prompts_of_tokens_have_hashes_too() -> None:
    tokens = list(range(1000))
    first, later = prompt_prefixes(prompt(tokens)), prompt_prefixes(prompt([*tokens, 5]))
    assert first and later[: len(first)] == first
    assert common(prompt_prefixes(prompt([7, *tokens])), first) == 0


def test_a_short_prompt_has_none() -> None:
    assert prompt_prefixes(prompt("One")) == ()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"messages": 3, "prompt": {}}', b'{"messages": null}', b"\xff", b"[" * 100_000],
)
def test_what_makes_no_sense_has_none_and_breaks_nothing(body: bytes) -> None:
    assert chat_prefixes(body) == ()
    assert prompt_prefixes(body) == ()
