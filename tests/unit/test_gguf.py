"""The reader of GGUF headers: what it tells, and that no file makes it do anything but tell or refuse.

Hardening G3: counts, lengths and offsets that lie.
"""

from __future__ import annotations

import os
import resource
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ekiben.contract import gguf as reader
from ekiben.contract.gguf import read_gguf, shard_stem, shards
from ekiben.errors import ConfigError
from tests.gguf_files import entry, gguf, tensor, text, write

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

GOOD = gguf(
    {
        "general.name": "Tiny",
        "general.license": "mit",
        "general.file_type": 15,
        "llama.context_length": 4096,
        "tokenizer.ggml.tokens": [f"token {n}" for n in range(300)],
        "tokenizer.chat_template": "{{ messages }}",
    }
)


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def test_a_header_tells_what_the_model_is(tmp_path: Path) -> None:
    model = read_gguf(write(tmp_path / "m.gguf", GOOD))
    assert model.architecture == "llama"
    assert model.kind == "model"
    assert model.name == "Tiny"
    assert model.license == "mit"
    assert model.quantization == "Q4_K_M"
    assert model.context_tokens == 4096
    assert model.parameters == 64
    assert model.has_chat_template
    assert not model.pooled


def test_what_a_header_does_not_say_is_left_out(tmp_path: Path) -> None:
    model = read_gguf(write(tmp_path / "m.gguf", gguf({"general.file_type": 4711, "llama.pooling_type": 1})))
    assert (model.name, model.license, model.quantization, model.context_tokens) == (None, None, None, None)
    assert model.pooled
    assert not model.has_chat_template


def test_a_long_chat_template_counts_without_being_kept(tmp_path: Path) -> None:
    template = "x" * (reader.MAX_TEXT_BYTES + 1)
    assert read_gguf(
        write(tmp_path / "m.gguf", gguf({"tokenizer.chat_template": template}))
    ).has_chat_template


BROKEN = {
    "nothing": (b"", "not a GGUF file: .*: the file is empty"),
    "other": (b"PK\x03\x04rest", r"not a GGUF file: .*: it begins with b'PK\\x03\\x04'"),
    "short": (b"GGUF", "broken GGUF file: .*: the file ends within the version: fetch it again"),
    "version 1": (head(version=1), "not a GGUF file: .*: version 1 cannot be read: known are 2 and 3"),
    "big-endian": (b"GGUF\0\0\0\x03", "not a GGUF file: .*: version 50331648 .*: the file is big-endian"),
    "tensors": (head(tensors=2**64 - 1), "it claims 18446744073709551615 tensors"),
    "keys": (head(keys=2**64 - 1), "it claims 18446744073709551615 keys"),
    "key length": (head(keys=1) + struct.pack("<Q", 2**63), "a key is 9223372036854775808 bytes long"),
    "no key": (head(keys=1), "the file ends within a key"),
    "key type": (head(keys=1) + text("a") + struct.pack("<I", 13), "the key 'a' has the unknown type 13"),
    "text length": (
        head(keys=1) + text("a") + struct.pack("<IQ", 8, 2**64 - 1),
        "the file ends within the value of 'a'",
    ),
    "array length": (
        head(keys=1) + text("a") + struct.pack("<IIQ", 9, 0, 2**64 - 1),
        "it claims 18446744073709551615 items of 'a'",
    ),
    "array of numbers": (
        head(keys=1) + text("a") + struct.pack("<IIQ", 9, 10, 2**21),
        "the file ends within the items of 'a'",
    ),
    "array of texts": (
        head(keys=1) + text("a") + struct.pack("<IIQQ", 9, 8, 2, 2**64 - 1),
        "the file ends within the items of 'a'",
    ),
    "array of arrays": (
        head(keys=1) + text("a") + struct.pack("<IIQ", 9, 9, 1),
        "the array 'a' has items of the unknown type 9",
    ),
    "twice": (head(keys=2) + entry("a", 1) + entry("a", 1), "the key 'a' stands there twice"),
    "no architecture": (head(), "it does not say its architecture"),
    "alignment": (gguf({"general.alignment": 3}), "the alignment 3 is not a power of two"),
    "alignment text": (gguf({"general.alignment": "x"}), "the alignment 'x' is not a power of two"),
    "dimensions": (gguf(tensors=(tensor("t", *[1] * 5),)), "the tensor 't' has 5 dimensions"),
    "shape": (gguf(tensors=(tensor("t", 2**63, 2**63),)), "the tensor 't' ends at byte"),
    "offset": (gguf(tensors=(tensor("t", 1, offset=2**63),)), "the tensor 't' ends at byte"),
    "unknown type": (gguf(tensors=(tensor("t", 1, kind=999, offset=2**63),)), "the tensor 't' ends at byte"),
    "cut short": (GOOD[:-1], "the tensor 'weight' ends at byte .*, the file at byte"),
    "no tensor": (gguf()[:60], "the file ends within"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    data, expected = BROKEN[case]
    with pytest.raises(ConfigError, match=expected):
        read_gguf(write(tmp_path / "m.gguf", data))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_gguf(tmp_path)


def test_a_header_without_end_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    """Sparse files of 8 GiB: one skips forward without end, one claims as many empty texts as it may."""
    for kind, count, expected in (
        (10, reader.MAX_ITEMS, f"its header is longer than {reader.MAX_HEADER_BYTES} bytes"),
        (8, reader.MAX_ITEMS // 4, f"its arrays hold more than {reader.MAX_ITEMS} texts"),
    ):
        path = tmp_path / f"{kind}.gguf"
        with path.open("wb") as file:
            file.write(head(keys=reader.MAX_KEYS))
            for n in range(40):
                file.write(text(f"key {n}") + struct.pack("<IIQ", 9, kind, count))
                file.seek(8 * count, os.SEEK_CUR)
            file.truncate(8 * 2**30)
        begun = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ConfigError, match=expected):
            read_gguf(path)
        assert time.monotonic() - begun < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 32 * 1024, "KiB"


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=9), st.integers(0, 9))
@settings(max_examples=500, deadline=5000, suppress_health_check=QUIET)
def test_no_change_of_a_good_file_raises_anything_but_a_config_error(
    tmp_path: Path, at: int, data: bytes, cut: int
) -> None:
    path = write(tmp_path / "m.gguf", GOOD[:at] + data + GOOD[at + cut :])
    try:
        assert read_gguf(path).parameters >= 0
    except ConfigError as error:
        assert error.message.startswith(("broken GGUF file: ", "not a GGUF file: "))


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=300, deadline=5000, suppress_health_check=QUIET)
def test_no_bytes_after_the_magic_raise_anything_but_a_config_error(
    tmp_path: Path, data: bytes, tensors: int, keys: int
) -> None:
    with pytest.raises(ConfigError):
        read_gguf(write(tmp_path / "m.gguf", head(tensors, keys) + data))


def test_a_split_model_is_all_of_its_files(tmp_path: Path) -> None:
    names = [f"big-Q4-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    for name in names:
        write(tmp_path / name, GOOD)
    assert [path.name for path in shards(tmp_path / names[1])] == names
    assert shard_stem(tmp_path / names[1]) == "big-Q4"
    (tmp_path / names[2]).unlink()
    with pytest.raises(ConfigError, match="is one of 3 files, and not all are here: missing big-Q4-00003-of"):
        shards(tmp_path / names[0])


def test_a_file_alone_is_its_own_shard(tmp_path: Path) -> None:
    assert shards(tmp_path / "a.gguf") == [tmp_path / "a.gguf"]
    assert shard_stem(tmp_path / "a.Q4.gguf") == "a.Q4"


def test_a_number_of_shards_that_lies_is_refused_quickly(tmp_path: Path) -> None:
    for name in ("a-00001-of-99999.gguf", "a-00000-of-00000.gguf"):
        with pytest.raises(ConfigError, match="not all are here"):
            shards(write(tmp_path / name, GOOD))
