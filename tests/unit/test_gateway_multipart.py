"""The two fields are found wherever a form is cut, and nonsense raises nothing but InvalidRequest."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ekiben.errors import InvalidRequest
from ekiben.gateway.multipart import FormFields

TYPE = b"multipart/form-data; boundary=xyz"


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


FORM = (
    part("file", b"\r\n--xy\r\nmodel" * 50, '; filename="model"')
    + part("model", b"a-model")
    + part("prompt", b"x")
    + part("stream", b"true")
    + b"--xyz--\r\n"
)


@given(st.lists(st.integers(0, len(FORM)), max_size=30))
def test_fields_are_found_however_the_body_is_cut(places: list[int]) -> None:
    form = FormFields(TYPE)
    borders = [0, *sorted(places), len(FORM)]
    for start, end in itertools.pairwise(borders):
        form.feed(FORM[start:end])
    form.finish()
    assert (form.value("model"), form.value("stream")) == ("a-model", "true")


def test_a_file_called_model_is_no_model() -> None:
    form = FormFields(TYPE)
    form.feed(part("model", b"a-model", '; filename="a"') + b"--xyz--\r\n")
    form.finish()
    assert form.value("model") is None


PIECES = st.sampled_from(
    [
        b"--xyz",
        b"--",
        b"\r\n",
        b"\r\n\r\n",
        b'Content-Disposition: form-data; name="model"',
        b"a: b",
        b":",
        b"x\0\xff",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=20), max_size=30), st.binary(max_size=20))
def test_nonsense_raises_invalid_request_or_nothing(pieces: list[bytes], tail: bytes) -> None:
    try:
        form = FormFields(TYPE + b"; x=" + tail)
        for piece in pieces:
            form.feed(piece)
        form.finish()
        form.value("model")
    except InvalidRequest:
        pass
