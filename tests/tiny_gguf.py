"""GGUF models small enough to be made by a test, with random weights that are the same on every run.

They prove shapes, routes, seeds and cancellation, never the quality of an answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gguf
import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 64
HEADS: Final = 4
DEEP: Final = 2
WORDS: Final = ("the", "cat", "dog", "sat", "on", "mat", "fish", "swim", "in", "water", "a", "bird", "sky")

SPECIAL: Final = ("<|begin|>", "<|im_start|>", "<|im_end|>")
FILLING: Final = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Tensor = NDArray[np.float32]


class Weights:
    """Random tensors, given into a file one by one."""

    def __init__(self, writer: gguf.GGUFWriter, *, seed: int) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)

    def matrix(self, name: str, *shape: int, scale: float | None = None) -> Tensor:
        """`shape` as numpy has it: outputs first."""
        size = scale or shape[-1] ** -0.5
        values = (self._random.standard_normal(shape) * size).astype(np.float32)
        self._writer.add_tensor(name, values)
        return values

    def ones(self, name: str, size: int) -> None:
        self._writer.add_tensor(name, np.ones(size, np.float32))

    def zeros(self, name: str, *shape: int) -> None:
        self._writer.add_tensor(name, np.zeros(shape, np.float32))

    def norm(self, name: str, size: int = WIDTH) -> None:
        self.ones(f"{name}.weight", size)
        self.zeros(f"{name}.bias", size)


def llama_model(
    path: Path, *, width: int = WIDTH, deep: int = DEEP, seed: int = 1, split: int = 0, infills: bool = False
) -> Path:
    """A language model whose tokens are bytes.

    `split`: tensors in each of several files; the path of the first is returned. `infills`: it has the
    tokens for a text with a gap.
    """
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    _describe(writer, width=width, deep=deep, context=2048)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // HEADS)
    words = _add_bytes(writer, infills=infills)
    writer.add_vocab_size(words)
    weights = Weights(writer, seed=seed)
    weights.matrix("token_embd.weight", words, width, scale=0.5)
    for layer in range(deep):
        _llama_layer(weights, f"blk.{layer}", width)
    weights.ones("output_norm.weight", width)
    _write(writer)
    return path if not split else next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))))


def embedding_model(path: Path, *, pooling: str = "mean", seed: int = 2) -> Path:
    """A BERT that knows `WORDS`; with `rank` as pooling it judges pairs."""
    writer = gguf.GGUFWriter(path, "bert")
    _describe(writer, width=WIDTH, deep=DEEP, context=128)
    writer.add_causal_attention(False)
    writer.add_layer_norm_eps(1e-12)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    words = _add_words(writer)
    writer.add_vocab_size(words)
    weights = Weights(writer, seed=seed)
    weights.matrix("token_embd.weight", words, WIDTH, scale=0.5)
    weights.matrix("position_embd.weight", 128, WIDTH, scale=0.1)
    weights.matrix("token_types.weight", 2, WIDTH, scale=0.1)
    weights.norm("token_embd_norm")
    for layer in range(DEEP):
        _bert_layer(weights, f"blk.{layer}")
    if pooling == "rank":
        weights.matrix("cls.weight", WIDTH, WIDTH)
        weights.zeros("cls.bias", WIDTH)
        weights.matrix("cls.output.weight", 1, WIDTH)
        weights.zeros("cls.output.bias", 1)
    _write(writer)
    return path


def adapter(path: Path, base: Path, *, rank: int = 4, scale: float = 0.5, seed: int = 3) -> Path:
    """A LoRA adapter for a llama model, large enough to change what it says."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    weights = Weights(writer, seed=seed)
    for tensor in gguf.GGUFReader(base).tensors:
        if tensor.name.endswith(("attn_v.weight", "ffn_down.weight")):
            inputs, outputs = (int(size) for size in tensor.shape)
            weights.matrix(f"{tensor.name}.lora_a", rank, inputs, scale=scale)
            weights.matrix(f"{tensor.name}.lora_b", outputs, rank, scale=scale)
    _write(writer)
    return path


def projector(path: Path, *, width: int = WIDTH, pictures: bool = True, seed: int = 4) -> Path:
    """What turns pictures (or sounds) into tokens of a model that is `width` wide."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(0)
    weights = Weights(writer, seed=seed)
    if pictures:
        _add_eye(writer, weights, width)
    else:
        _add_ear(writer, weights, width)
    _write(writer)
    return path


def _describe(writer: gguf.GGUFWriter, *, width: int, deep: int, context: int) -> None:
    writer.add_name("tiny")
    writer.add_file_type(0)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(deep)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(HEADS)


def _llama_layer(weights: Weights, block: str, width: int) -> None:
    weights.ones(f"{block}.attn_norm.weight", width)
    weights.matrix(f"{block}.attn_q.weight", width, width)
    weights.matrix(f"{block}.attn_k.weight", width // 2, width)
    weights.matrix(f"{block}.attn_v.weight", width // 2, width)
    weights.matrix(f"{block}.attn_output.weight", width, width)
    weights.ones(f"{block}.ffn_norm.weight", width)
    weights.matrix(f"{block}.ffn_gate.weight", 2 * width, width)
    weights.matrix(f"{block}.ffn_up.weight", 2 * width, width)
    weights.matrix(f"{block}.ffn_down.weight", width, 2 * width)


def _bert_layer(weights: Weights, block: str) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        weights.matrix(f"{block}.{name}.weight", WIDTH, WIDTH)
        weights.zeros(f"{block}.{name}.bias", WIDTH)
    weights.norm(f"{block}.attn_output_norm")
    weights.matrix(f"{block}.ffn_up.weight", 2 * WIDTH, WIDTH)
    weights.zeros(f"{block}.ffn_up.bias", 2 * WIDTH)
    weights.matrix(f"{block}.ffn_down.weight", WIDTH, 2 * WIDTH)
    weights.zeros(f"{block}.ffn_down.bias", WIDTH)
    weights.norm(f"{block}.layer_output_norm")


def _add_words(writer: gguf.GGUFWriter) -> int:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = special + [f"\u2581{word}" for word in WORDS] + [f"\u2581{letter}" for letter in "xyz"]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    return len(tokens)


def _add_eye(writer: gguf.GGUFWriter, weights: Weights, width: int) -> None:
    """llava's: 28 pixels in patches of 14, and two layers between the worlds."""
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(28)
    writer.add_vision_patch_size(14)
    writer.add_vision_projection_dim(width)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(2 * WIDTH)
    writer.add_vision_block_count(DEEP)
    writer.add_vision_head_count(HEADS)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    weights.matrix("v.patch_embd.weight", WIDTH, 3, 14, 14, scale=0.05)
    weights.matrix("v.class_embd", WIDTH, scale=0.5)
    weights.matrix("v.position_embd.weight", 5, WIDTH, scale=0.5)
    weights.norm("v.pre_ln")
    for layer in range(DEEP):
        _sense_layer(weights, f"v.blk.{layer}")
    weights.matrix("mm.0.weight", width, WIDTH)
    weights.zeros("mm.0.bias", width)
    weights.matrix("mm.2.weight", width, width)
    weights.zeros("mm.2.bias", width)


def _add_ear(writer: gguf.GGUFWriter, weights: Weights, width: int) -> None:
    """Whisper's encoder with ultravox's projector: frames in groups of ten."""
    writer.add_clip_has_audio_encoder(True)
    writer.add_clip_projector_type("ultravox")
    writer.add_audio_projection_dim(width)
    writer.add_audio_embedding_length(WIDTH)
    writer.add_audio_feed_forward_length(2 * WIDTH)
    writer.add_audio_block_count(DEEP)
    writer.add_audio_head_count(HEADS)
    writer.add_audio_attention_layernorm_eps(1e-5)
    writer.add_audio_num_mel_bins(80)
    writer.add_audio_stack_factor(10)
    weights.matrix("a.conv1d.1.weight", WIDTH, 80, 3, scale=0.1)
    weights.zeros("a.conv1d.1.bias", WIDTH, 1)
    weights.matrix("a.conv1d.2.weight", WIDTH, WIDTH, 3, scale=0.1)
    weights.zeros("a.conv1d.2.bias", WIDTH, 1)
    weights.matrix("a.position_embd.weight", 1500, WIDTH, scale=0.1)
    for layer in range(DEEP):
        _sense_layer(weights, f"a.blk.{layer}")
    weights.norm("a.post_ln")
    weights.ones("mm.a.norm_pre.weight", 10 * WIDTH)
    weights.matrix("mm.a.mlp.1.weight", 2 * width, 10 * WIDTH)
    weights.ones("mm.a.norm_mid.weight", width)
    weights.matrix("mm.a.mlp.2.weight", width, width)


def _sense_layer(weights: Weights, block: str) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        weights.matrix(f"{block}.{name}.weight", WIDTH, WIDTH)
    for name in ("attn_q", "attn_v", "attn_out"):
        weights.zeros(f"{block}.{name}.bias", WIDTH)
    weights.norm(f"{block}.ln1")
    weights.norm(f"{block}.ln2")
    weights.matrix(f"{block}.ffn_up.weight", 2 * WIDTH, WIDTH)
    weights.zeros(f"{block}.ffn_up.bias", 2 * WIDTH)
    weights.matrix(f"{block}.ffn_down.weight", WIDTH, 2 * WIDTH)
    weights.zeros(f"{block}.ffn_down.bias", WIDTH)


def _add_bytes(writer: gguf.GGUFWriter, *, infills: bool) -> int:
    """How many tokens there are."""
    special = [*SPECIAL, *(FILLING if infills else ())]
    tokens = [*_letters(), "th", *special]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * len(special))
    writer.add_token_merges(["t h"])  # there must be one
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(259)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for place, name in enumerate(("prefix", "suffix", "middle") if infills else ()):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", 257 + len(SPECIAL) + place)
    return len(tokens)


def _letters() -> list[str]:
    """A visible character for each byte, as the tokenizers of this kind have them."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
