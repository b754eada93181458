"""Whole events only, whatever the pieces are, and never another byte."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.gateway.relay.event_stream import HOLD_BYTES, EventStream

ALPHABET = st.sampled_from([b"\n", b"\r", b"\r\n", b"data: ", b"[DONE]", b": ", b"x", "é".encode()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at the places."""
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(borders) if end > start]


@given(st.lists(ALPHABET, max_size=60), st.lists(st.integers(min_value=0), max_size=20))
def test_every_byte_passes_in_order(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    stream = EventStream()
    passed = b"".join(stream.feed(piece) for piece in cut(data, places)) + stream.finish()
    assert passed == data


@given(st.lists(ALPHABET, max_size=60), st.lists(st.integers(min_value=0), max_size=20))
def test_what_passed_before_the_end_is_whole_events(parts: list[bytes], places: list[int]) -> None:
    data = b"".join(parts)
    stream = EventStream()
    passed = b"".join(stream.feed(piece) for piece in cut(data, places))
    assert not stream.open
    assert passed == b"" or passed.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    assert not data[len(passed) :].endswith(b"\n\n")  # and an event that is whole was not held


@pytest.mark.parametrize(
    ("data", "done"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data: 1\n\ndata: [DONE]\n\n", True),
        (b"data: 1\n\ndata:[DONE]\n\n", True),
        (b"data: 1\r\n\r\ndata: [DONE]\r\n\r\n", True),
        (b"data: 1\n\ndata: [DONE]", True),
        (b"data: [DONE]\n\ndata: [DONE]\n\n", True),
        (b"", False),
        (b"data: 1\n\n", False),
        (b"data: [DONE", False),
        (b'data: {"text": "data: [DONE]"}\n\n', False),
        (b'data: {"text": " data: [DONE]\n\n', False),
        (b"data: [DONE]\n\ndata: 1\n\n", False),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_done_is_seen_at_the_end_only(data: bytes, done: bool, size: int) -> None:
    stream = EventStream()
    for start in range(0, len(data), size):
        stream.feed(data[start : start + size])
    stream.finish()
    assert stream.done is done


def test_a_huge_event_is_not_held() -> None:
    stream = EventStream()
    size = 0
    for _ in range(1000):
        size += len(stream.feed(b"x" * 1000))
    assert size > 1_000_000 - 2 * HOLD_BYTES
    assert stream.open
    assert stream.feed(b"\n\ndata: next\n\n").endswith(b"next\n\n")
    assert not stream.open
