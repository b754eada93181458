"""What the header of a GGUF file says of the model in it, for whoever catalogues or loads one.

Reads metadata and the table of tensors, never their data. A hostile or broken file ends in ConfigError:
every count and length is held against the file's size and a limit before anything is read or reserved.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

from ekiben.errors import ConfigError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_HEADER_BYTES: Final = 64 * 2**20
MAX_KEYS: Final = 1 << 16
MAX_ITEMS: Final = 1 << 21
"""Of all arrays of texts together, and of any one array: the largest vocabularies have a quarter of it."""
MAX_TENSORS: Final = 1 << 18
MAX_TEXT_BYTES: Final = 1 << 16
"""Of a key, a name, or a text that is kept; longer ones (a chat template) are skipped, not read."""

_BLOCK_BYTES: Final = 1 << 16
_LENGTH: Final = struct.Struct("<Q")

_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_QUANTIZATIONS: Final = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K"},
    **{11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M"},
    **{18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S"},
    **{25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M"},
    **{32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4"},
}
"""`general.file_type` as llama.cpp numbers it."""

_BLOCKS: Final = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110)},
    **{22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8)},
    **{29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
"""Tensor type: values in a block, bytes of a block."""

_RANK: Final = 4
"""The `pooling_type` of models that judge pairs of texts."""

_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufModel:
    """What is worth knowing of a GGUF file before it is loaded."""

    architecture: str
    kind: str
    """`model`, or what else a GGUF file can hold: `adapter`, `mmproj`, `vocab`."""
    name: str | None
    license: str | None
    quantization: str | None
    context_tokens: int | None
    parameters: int
    """Counted from the table of tensors; of this file alone when the model is in several."""
    pooled: bool
    """It was made for embeddings, or for reranking: its output is pooled."""
    chat_template: str | None
    """None when there is none, and when it is longer than any that is meant well."""
    metadata: Mapping[str, Any]
    """All keys of the file; arrays and long texts are there as None."""

    @property
    def ranks(self) -> bool:
        """It was made for reranking."""
        return self.metadata.get(f"{self.architecture}.pooling_type") == _RANK

    @property
    def has_chat_template(self) -> bool:
        return "tokenizer.chat_template" in self.metadata


def read_gguf(path: Path) -> GgufModel:
    """Read the header. Raises ConfigError: `not a GGUF file: …` or `broken GGUF file: …`.

    A file that was just read, and has not changed, is not read again.
    """
    try:
        status = path.stat()
        return _read_gguf(path, status.st_size, status.st_mtime_ns)
    except _Broken as error:
        raise ConfigError(f"broken GGUF file: {path}: {error}: fetch it again") from None
    except _Foreign as error:
        raise ConfigError(f"not a GGUF file: {path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def _read_gguf(path: Path, size_bytes: int, changed_ns: int) -> GgufModel:
    """The last argument is only there to tell one state of the file from the next."""
    with path.open("rb") as file:
        return _describe(_Header(file, size_bytes=size_bytes).read())


def shards(path: Path) -> list[Path]:
    """The files of a model that is split as NAME-00001-of-0000N.gguf, in order; else the file alone.

    Raises ConfigError when one of them is not there.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    found = [path.with_name(f"{match['stem']}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    missing = [shard.name for shard in found if not shard.is_file()]
    if missing or not found:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ConfigError(f"{path} is one of {count} files, and not all are here: missing {shown}")
    return found


def shard_stem(path: Path) -> str:
    """The file's name without suffix and shard number."""
    match = _SHARD.fullmatch(path.name)
    return match["stem"] if match else path.stem


class _Foreign(Exception):
    """It is something else."""


class _Broken(Exception):
    """It begins as GGUF and goes wrong."""


@dataclass(frozen=True, slots=True)
class _Contents:
    values: dict[str, Any]
    """Scalars and short texts; arrays and long texts are there as None."""
    parameters: int


class _Header:
    """A cursor over the file that never reads, or believes, more than there is."""

    def __init__(self, file: BinaryIO, *, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._end = min(size_bytes, MAX_HEADER_BYTES)
        self._texts = 0

    def read(self) -> _Contents:
        magic = self._file.read(4)
        if magic != MAGIC:
            raise _Foreign("the file is empty" if not magic else f"it begins with {magic!r}, not {MAGIC!r}")
        version = self._number("I", "the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *VERSIONS)
            hint = "the file is big-endian" if swapped else f"known are {VERSIONS[0]} and {VERSIONS[1]}"
            raise _Foreign(f"version {version} cannot be read: {hint}")
        tensors = self._count("tensors", MAX_TENSORS)
        keys = self._count("keys", MAX_KEYS)
        values: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text("a key")
            if key in values:
                raise _Broken(f"the key {key[:80]!r} stands there twice")
            values[key] = self._value(self._number("I", f"the type of {key[:80]!r}"), key[:80])
        return _Contents(values, self._tensors(tensors, values.get("general.alignment", 32)))

    def _value(self, kind: int, key: str) -> Any:
        if code := _SCALARS.get(kind):
            return self._number(code, f"the value of {key!r}")
        if kind == _STRING:
            return self._value_text(key)
        if kind == _ARRAY:
            return self._skip_array(key)
        raise _Broken(f"the key {key!r} has the unknown type {kind}")

    def _value_text(self, key: str) -> str | None:
        length = self._number("Q", f"the length of {key!r}")
        if length > MAX_TEXT_BYTES:
            self._skip(length, f"the value of {key!r}")
            return None
        return self._bytes(length, f"the value of {key!r}").decode("utf-8", "replace")

    def _skip_array(self, key: str) -> None:
        kind = self._number("I", f"the item type of {key!r}")
        count = self._count(f"items of {key!r}", MAX_ITEMS)
        if code := _SCALARS.get(kind):
            self._skip(count * struct.calcsize(f"<{code}"), f"the items of {key!r}")
        elif kind == _STRING:
            self._skip_texts(count, f"the items of {key!r}")
        else:
            raise _Broken(f"the array {key!r} has items of the unknown type {kind}")

    def _tensors(self, count: int, alignment: object) -> int:
        """How many parameters there are; each tensor must lie inside the file."""
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
            raise _Broken(f"the alignment {alignment!r} is not a power of two from 8 up")
        parameters = 0
        last_byte, last_name = 0, ""
        for _ in range(count):
            name = self._text("the name of a tensor")
            values, size_bytes, offset = self._tensor(name[:80])
            parameters += values
            if offset + size_bytes > last_byte:
                last_byte, last_name = offset + size_bytes, name[:80]
        data_start = math.ceil(self._file.tell() / alignment) * alignment
        if data_start + last_byte > self._size_bytes and count:
            raise _Broken(
                f"the tensor {last_name!r} ends at byte {data_start + last_byte}, "
                f"the file at byte {self._size_bytes}"
            )
        return parameters

    def _tensor(self, name: str) -> tuple[int, int, int]:
        """Number of values, bytes (0 when the type is not known here) and offset of one tensor."""
        dimensions = self._number("I", f"the shape of {name!r}")
        if not 1 <= dimensions <= 4:
            raise _Broken(f"the tensor {name!r} has {dimensions} dimensions")
        values = math.prod(self._number("Q", f"the shape of {name!r}") for _ in range(dimensions))
        kind = self._number("I", f"the type of {name!r}")
        offset = self._number("Q", f"the offset of {name!r}")
        per_block, block_bytes = _BLOCKS.get(kind, (1, 0))
        return values, math.ceil(values / per_block) * block_bytes if block_bytes else 0, offset

    def _text(self, what: str) -> str:
        length = self._number("Q", what)
        if length > MAX_TEXT_BYTES:
            raise _Broken(f"{what} is {length} bytes long")
        return self._bytes(length, what).decode("utf-8", "replace")

    def _count(self, what: str, limit: int) -> int:
        count: int = self._number("Q", f"the number of {what}")
        if count > limit:
            raise _Broken(f"it claims {count} {what}, more than the {limit} that any model has")
        return count

    def _number(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}"), what))[0]

    def _bytes(self, length: int, what: str) -> bytes:
        self._fits(length, what)
        data = self._file.read(length)
        if len(data) != length:
            raise _Broken(f"the file ends within {what}")
        return data

    def _skip(self, length: int, what: str) -> None:
        self._fits(length, what)
        self._file.seek(length, 1)

    def _skip_texts(self, count: int, what: str) -> None:
        """A vocabulary has some 100,000 texts: their lengths are picked out of whole blocks."""
        self._texts += count
        if self._texts > MAX_ITEMS:
            raise _Broken(f"its arrays hold more than {MAX_ITEMS} texts")
        while count:
            self._fits(8, what)
            start = self._file.tell()
            block = self._file.read(min(_BLOCK_BYTES, self._end - start))
            at = 0
            while count and at + 8 <= len(block):
                at += 8 + _LENGTH.unpack_from(block, at)[0]
                count -= 1
            self._file.seek(start)
            self._skip(at, what)

    def _fits(self, length: int, what: str) -> None:
        if self._file.tell() + length <= self._end:
            return
        if self._end < self._size_bytes:
            raise _Broken(f"its header is longer than {MAX_HEADER_BYTES} bytes")
        raise _Broken(f"the file ends within {what}")


def _describe(contents: _Contents) -> GgufModel:
    values = contents.values
    architecture = _text_of(values, "general.architecture")
    if architecture is None:
        raise _Broken("it does not say its architecture")
    context = values.get(f"{architecture}.context_length")
    file_type = values.get("general.file_type")
    return GgufModel(
        architecture=architecture,
        kind=_text_of(values, "general.type") or "model",
        name=_text_of(values, "general.name"),
        license=_text_of(values, "general.license"),
        quantization=_QUANTIZATIONS.get(file_type) if isinstance(file_type, int) else None,
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        parameters=contents.parameters,
        pooled=bool(values.get(f"{architecture}.pooling_type")),
        chat_template=_text_of(values, "tokenizer.chat_template"),
        metadata=values,
    )


def _text_of(values: dict[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value.strip() or None if isinstance(value, str) else None
