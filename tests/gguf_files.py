"""GGUF and safetensors files made by tests: sound ones, and parts to spoil."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UINT32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, value: int | str | list[str]) -> bytes:
    """One key of the metadata."""
    if isinstance(value, int):
        return text(key) + struct.pack("<II", UINT32, value)
    if isinstance(value, str):
        return text(key) + struct.pack("<I", STRING) + text(value)
    return text(key) + struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(text, value))


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    dimensions = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


def gguf(
    values: Mapping[str, int | str | list[str]] | None = None,
    *,
    tensors: tuple[bytes, ...] = (tensor("weight", 32, 2),),
    data_bytes: int = 256,
    version: int = 3,
) -> bytes:
    """A whole file; by default a model of 64 parameters."""
    metadata = {"general.architecture": "llama", **(values or {})}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(entry(key, value) for key, value in metadata.items()) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data_bytes


def safetensors(tensors: Mapping[str, Any] | None = None, *, data_bytes: int = 256) -> bytes:
    """A whole file; by default one tensor of 64 parameters."""
    table = tensors or {"weight": {"dtype": "F32", "shape": [32, 2], "data_offsets": [0, data_bytes]}}
    header = json.dumps(table).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * data_bytes


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path
