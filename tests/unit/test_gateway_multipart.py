"""The two fields are found wherever a form is cut, and nonsense raises nothing but InvalidRequest."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ekiben.errors import InvalidRequest
from ekiben.gateway.http.multipart import FormFields

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


UPLOAD = part("purpose", b"batch") + part("file", b"\r\n--xy\r\n" * 50, '; filename="../a"') + b"--xyz--\r\n"


@given(st.lists(st.integers(0, len(UPLOAD)), max_size=30))
def test_a_file_is_handed_on_however_the_body_is_cut(places: list[int]) -> None:
    taken = bytearray()
    form = FormFields(TYPE, wanted=(b"purpose",), file=taken.extend)
    for start, end in itertools.pairwise([0, *sorted(places), len(UPLOAD)]):
        form.feed(UPLOAD[start:end])
    form.finish()
    assert (form.value("purpose"), form.filename, bytes(taken)) == ("batch", "../a", b"\r\n--xy\r\n" * 50)


@pytest.mark.parametrize(
    "body",
    [
        part("file", b"x"),
        part("other", b"x"),
        part("other", b"x", '; filename="a"'),
        part("file", b"x", '; filename="a"') * 2,
        part("purpose", b"x", '; filename="a"'),
        part("purpose", b"x") * 2,
    ],
)
def test_an_upload_has_its_fields_and_one_file(body: bytes) -> None:
    form = FormFields(TYPE, wanted=(b"purpose",), file=bytearray().extend)
    with pytest.raises(InvalidRequest):
        form.feed(body + b"--xyz--\r\n")
