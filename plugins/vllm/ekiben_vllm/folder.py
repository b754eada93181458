"""A model's folder on disk, judged before vLLM opens it.

Nothing here imports a library or runs anything of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ekiben.contract import LoadFailed

MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format."""
ADAPTER_CONFIG: Final = "adapter_config.json"
_WIDTH_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}


class ModelFolder:
    """Raises LoadFailed, with what to do, where it is not what vLLM can read."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise LoadFailed(f"{path.name!r} is not a folder: give the whole folder of the model")
        self.path = path
        self.config = _json(path / "config.json")
        if not self.config:
            raise LoadFailed(
                f"the folder {path.name!r} has no config.json: give the whole folder of the model"
            )
        if self.config.get("auto_map"):
            raise LoadFailed(
                f"the model in {path.name!r} brings code of its own, which is never run: "
                "choose one that is part of vLLM"
            )
        inner = self.config.get("text_config")
        self._text: Mapping[str, Any] = inner if isinstance(inner, dict) else self.config

    def weights_bytes(self) -> int:
        """Of the tensors in all safetensors files, by their headers."""
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise LoadFailed(f"the folder {self.path.name!r} holds no weights in .safetensors files")
        return sum(_tensor_bytes(file) for file in files)

    def context_tokens(self) -> int | None:
        """What the model was trained for, where the config says it."""
        return self._number("max_position_embeddings")

    def layers(self) -> int:
        return self._number("num_hidden_layers") or 32

    def heads(self) -> int:
        return self._number("num_attention_heads") or 32

    def kv_heads(self) -> int:
        return self._number("num_key_value_heads") or self.heads()

    def hidden_size(self) -> int:
        return self._number("hidden_size") or 4096

    def feed_forward_size(self) -> int:
        return self._number("intermediate_size") or 4 * self.hidden_size()

    def vocabulary(self) -> int:
        return self._number("vocab_size") or 32_000

    def head_size(self) -> int:
        return self._number("head_dim") or self.hidden_size() // self.heads()

    def latent_size(self) -> int | None:
        """Of models that keep one compressed vector for keys and values (DeepSeek's)."""
        rank = self._number("kv_lora_rank")
        return rank and rank + (self._number("qk_rope_head_dim") or 0)

    def dtype(self) -> str:
        named = self._text.get("dtype") or self._text.get("torch_dtype") or self.config.get("dtype")
        return named if named in ("float16", "bfloat16") else "bfloat16"

    def width_bytes(self, dtype: str) -> int:
        """Of one number in what the model computes in."""
        return _WIDTH_BYTES[self.dtype() if dtype == "auto" else dtype]

    def chat_template(self) -> str:
        """Empty where there is none."""
        try:
            return (self.path / "chat_template.jinja").read_text(errors="replace")
        except OSError:
            template = _json(self.path / "tokenizer_config.json").get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {
                entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)
            }
            template = named.get("default")
        return template if isinstance(template, str) else ""

    def _number(self, name: str) -> int | None:
        value = self._text.get(name)
        return value if type(value) is int and value > 0 else None


def adapter_rank(name: str, path: Path) -> int:
    """Of a LoRA adapter's folder. Raises LoadFailed."""
    rank = _json(path / ADAPTER_CONFIG).get("r")
    if type(rank) is not int or rank < 1:
        raise LoadFailed(
            f"the adapter {name!r} has no {ADAPTER_CONFIG} with a rank: give a folder as PEFT saves it"
        )
    if not any(path.glob("*.safetensors")):
        raise LoadFailed(f"the adapter {name!r} holds no weights in .safetensors files: convert them")
    return rank


def _json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LoadFailed(f"{path.name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise LoadFailed(f"{path.name} must hold an object, not a {type(value).__name__}")
    return value


def _tensor_bytes(path: Path) -> int:
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        if max(ends, default=0) != size_bytes - 8 - length:
            raise ValueError("its tensors do not end where the file does")
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise LoadFailed(f"{path.name!r} is not a safetensors file: {error}") from None
    return size_bytes - 8 - length
