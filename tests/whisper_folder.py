"""The catalog's Whisper as transformers has it: its CTranslate2 weights under the library's names."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

DTYPES: Final = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""As CTranslate2 numbers them."""
START: Final = "<|startoftranscript|>"
BASE: Final[dict[str, Any]] = {
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
}
ALIGNMENT_HEADS: Final = [[3, 1], [4, 2], [4, 3], [4, 7], [5, 1], [5, 2], [5, 4], [5, 6]]


def convert(source: Path, folder: Path) -> Path:
    """`source`: a CTranslate2 folder of whisper-base. Blocking, some seconds."""
    tokenizer = _tokenizer(source)
    config = WhisperConfig(**BASE, vocab_size=51865, decoder_start_token_id=_id(tokenizer, START))
    model = WhisperForConditionalGeneration(config)
    state = model.state_dict()
    made = dict(_renamed(dict(_variables(source / "model.bin"))))
    for name, array in made.items():
        assert state[name].shape == array.shape, name
        state[name] = torch.from_numpy(array.astype(np.float32))
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    missing = set(state) - set(made) - {"proj_out.weight"}
    assert all(name.endswith("k_proj.bias") for name in missing), missing  # there is none
    model.load_state_dict(state)
    return save(model, tokenizer, folder)


def tiny(source: Path, folder: Path) -> Path:
    """Random weights of a few layers, with the tokenizer of `source`."""
    sizes: dict[str, Any] = {name: 2 if "layers" in name or "heads" in name else 32 for name in BASE}
    tokenizer = _tokenizer(source)
    torch.manual_seed(3)
    sizes |= {"vocab_size": 51865, "max_target_positions": 64}  # random weights never come to an end
    config = WhisperConfig(**sizes, decoder_start_token_id=_id(tokenizer, START))
    return save(WhisperForConditionalGeneration(config), tokenizer, folder)


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.generation_config = _generation(tokenizer, positions=model.config.max_target_positions)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor: Any = WhisperFeatureExtractor()  # type: ignore[no-untyped-call]
    extractor.save_pretrained(folder)
    return folder


def _tokenizer(source: Path) -> Any:
    return WhisperTokenizer(tokenizer_file=str(source / "tokenizer.json"))


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def _generation(tokenizer: Any, *, positions: int) -> GenerationConfig:
    start, end = _id(tokenizer, START), _id(tokenizer, "<|endoftext|>")
    tasks = {task: _id(tokenizer, f"<|{task}|>") for task in ("transcribe", "translate")}
    languages = {
        token: number
        for token, number in tokenizer.get_added_vocab().items()
        if start < number < min(tasks.values())
    }
    return GenerationConfig(  # type: ignore[no-untyped-call]
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        prev_sot_token_id=_id(tokenizer, "<|startofprev|>"),
        no_timestamps_token_id=_id(tokenizer, "<|notimestamps|>"),
        lang_to_id=languages,
        task_to_id=tasks,
        is_multilingual=True,
        max_initial_timestamp_index=50,
        max_length=positions,
        begin_suppress_tokens=[220, end],
        alignment_heads=ALIGNMENT_HEADS,
        return_timestamps=False,
    )


def _variables(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and values of a file of CTranslate2, version 6."""
    with path.open("rb") as file:
        version = _number(file, "I")
        assert version >= 5, version
        _name(file)
        _number(file, "I")
        for _ in range(_number(file, "I")):
            name = _name(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            dtype = DTYPES[_number(file, "B")]
            content = file.read(_number(file, "I"))
            yield name, np.frombuffer(content, dtype).reshape(shape)


def _number(file: IO[bytes], kind: str) -> int:
    return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])


def _name(file: IO[bytes]) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def _renamed(variables: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", variables[f"{side}/position_encodings/encodings"]
        yield from _norm(variables, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(BASE[f"{side}_layers"]):
            yield from _layer(variables, f"{side}/layer_{layer}", f"model.{side}.layers.{layer}")
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            yield f"model.encoder.{conv}.{part}", variables[f"encoder/{conv}/{part}"]
    yield "model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]


def _layer(variables: Mapping[str, NDArray[Any]], old: str, new: str) -> Iterator[tuple[str, NDArray[Any]]]:
    yield from _norm(variables, f"{old}/self_attention/layer_norm", f"{new}.self_attn_layer_norm")
    yield from _linear(variables, f"{old}/self_attention/linear_0", f"{new}.self_attn", "qkv")
    yield from _linear(variables, f"{old}/self_attention/linear_1", f"{new}.self_attn", "o")
    if f"{old}/attention/linear_0/weight" in variables:
        yield from _norm(variables, f"{old}/attention/layer_norm", f"{new}.encoder_attn_layer_norm")
        yield from _linear(variables, f"{old}/attention/linear_0", f"{new}.encoder_attn", "q")
        yield from _linear(variables, f"{old}/attention/linear_1", f"{new}.encoder_attn", "kv")
        yield from _linear(variables, f"{old}/attention/linear_2", f"{new}.encoder_attn", "o")
    yield from _norm(variables, f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
    for number in (0, 1):
        for part in ("weight", "bias"):
            yield f"{new}.fc{number + 1}.{part}", variables[f"{old}/ffn/linear_{number}/{part}"]


def _norm(variables: Mapping[str, NDArray[Any]], old: str, new: str) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{new}.weight", variables[f"{old}/gamma"]
    yield f"{new}.bias", variables[f"{old}/beta"]


def _linear(
    variables: Mapping[str, NDArray[Any]], old: str, new: str, parts: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    """What is one matrix there is several here."""
    for kind in ("weight", "bias"):
        for part, piece in zip(parts, np.split(variables[f"{old}/{kind}"], len(parts)), strict=True):
            name = "out_proj" if part == "o" else f"{part}_proj"
            if (part, kind) != ("k", "bias"):
                yield f"{new}.{name}.{kind}", piece
