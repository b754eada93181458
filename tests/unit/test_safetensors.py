"""The check of safetensors headers. Hardening G3: lengths, offsets, repeated keys and types that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ekiben.catalog.safetensors import MAX_HEADER_BYTES, count_parameters
from ekiben.errors import ConfigError
from tests.gguf_files import safetensors, write

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

GOOD = safetensors(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [4, 8], "data_offsets": [0, 64]},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [64, 72]},
        "empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [72, 72]},
    },
    data_bytes=72,
)


def one(**changes: object) -> bytes:
    return safetensors({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}, data_bytes=8)


def raw(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def test_parameters_are_counted(tmp_path: Path) -> None:
    assert count_parameters(write(tmp_path / "m.safetensors", GOOD)) == 33


TWICE = b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {}}'
BROKEN = {
    "nothing": (b"", "its header claims 0 bytes"),
    "length": (struct.pack("<Q", 2**63) + b"{}", "its header claims 9223372036854775808 bytes"),
    "longer than the file": (struct.pack("<Q", 100) + b"{}", "its header claims 100 bytes, the file has 10"),
    "pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00" + b"x" * 50, "its header claims"),
    "not json": (raw(b"{nope}"), "its header is not JSON"),
    "deep": (raw(b'{"a":' * 100_000), "its header is not JSON"),
    "digits": (raw(b'{"a":' + b"9" * 10_000 + b"}"), "its header is not JSON"),
    "list": (raw(b"[1, 2]"), "its header is not a JSON object"),
    "twice": (raw(TWICE, b"x"), "its header names a tensor twice"),
    "no table": (raw(b'{"t": 1}'), "the tensor 't' lacks dtype, shape or data_offsets"),
    "dtype": (one(dtype="F7"), "the tensor 't' has the unknown dtype 'F7'"),
    "shape": (one(shape=[-2]), "the shape of the tensor 't' is not one"),
    "shape of words": (one(shape=["2"]), "the shape of the tensor 't' is not one"),
    "shape of truths": (one(shape=[True, 2]), "the shape of the tensor 't' is not one"),
    "many dimensions": (one(shape=[1] * 17), "the shape of the tensor 't' is not one"),
    "offsets": (one(data_offsets=[8, 0]), "the tensor 't' is not as long as its shape says"),
    "negative": (one(data_offsets=[-8, 0]), "the tensor 't' is not as long as its shape says"),
    "too short": (one(data_offsets=[0, 4]), "the tensor 't' is not as long as its shape says"),
    "huge": (one(shape=[2**62, 2**62]), "the tensor 't' is not as long as its shape says"),
    "past the end": (one(shape=[4], data_offsets=[0, 16]), "its tensors end at byte 16, its data at byte 8"),
    "gap": (one(shape=[1], data_offsets=[4, 8]), "begins at byte 4, the one before ends at 0"),
    "cut short": (GOOD[:-1], "its tensors end at byte 72, its data at byte 71"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    data, expected = BROKEN[case]
    with pytest.raises(ConfigError, match=rf"broken safetensors file: .*: .*{expected}.*: fetch it again"):
        count_parameters(write(tmp_path / "m.safetensors", data))


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    table = {name: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for name in ("a", "b")}
    with pytest.raises(ConfigError, match="begins at byte 0, the one before ends at 8"):
        count_parameters(write(tmp_path / "m.safetensors", safetensors(table, data_bytes=8)))


def test_a_header_longer_than_any_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(2**33)
    with pytest.raises(ConfigError, match="its header claims"):
        count_parameters(path)


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=9), st.integers(0, 9))
@settings(max_examples=300, deadline=5000, suppress_health_check=QUIET)
def test_no_change_of_a_good_file_raises_anything_but_a_config_error(
    tmp_path: Path, at: int, data: bytes, cut: int
) -> None:
    try:
        count_parameters(write(tmp_path / "m.safetensors", GOOD[:at] + data + GOOD[at + cut :]))
    except ConfigError as error:
        assert error.message.startswith("broken safetensors file: ")


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    )
)
@settings(max_examples=300, deadline=5000, suppress_health_check=QUIET)
def test_no_json_raises_anything_but_a_config_error(tmp_path: Path, value: object) -> None:
    try:
        count_parameters(write(tmp_path / "m.safetensors", raw(json.dumps({"t": value}).encode())))
    except ConfigError as error:
        assert error.message.startswith("broken safetensors file: ")
