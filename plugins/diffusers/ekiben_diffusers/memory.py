"""How much memory a pipeline will take, from the headers of its files and its configs."""

from __future__ import annotations

import sys
from typing import Any, Final

from ekiben.contract import LoadRequest, MemoryEstimate
from ekiben_diffusers.folder import PipelineFolder

WIDTH_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
QUANTIZED_BYTES: Final = {"int8": 1.05, "int4": 0.6}
"""Of a weight in a linear layer, its scales included."""
QUANTIZED_PARTS: Final = ("transformer", "unet", "text_encoder")
LIBRARY_BYTES: Final = 520 * 2**20
"""What torch, transformers and diffusers hold by themselves."""
DECODED_MAPS: Final = 9
"""Maps as wide as the VAE's first layer, of the size of the picture, at the peak of decoding."""
DENOISED_MAPS: Final = 60
"""Maps as wide as the first layer, of the size of the latents, at the peak of a step."""
GPU_HOST_BYTES: Final = 1024 * 2**20
"""What torch's part for GPUs holds of the host's memory, allowed for."""
TILE_PIXELS: Final = 512 * 512


def estimate(folder: PipelineFolder, request: LoadRequest) -> MemoryEstimate:
    width = WIDTH_BYTES[choose_dtype(folder, request)]
    library = 0 if "diffusers" in sys.modules else LIBRARY_BYTES
    parts = {part: _part_bytes(folder, part, request, width) for part in folder.parts()}
    weights = sum(parts.values()) + _adapter_bytes(request, width)
    working = _working_bytes(folder, request, width)
    if request.device.kind == "cpu":
        return MemoryEstimate(weights_bytes=weights, working_bytes=working + library)
    offload = request.options.get("offload") or "none"
    on_device = {"none": weights, "model": max(parts.values(), default=0), "sequential": weights // 20}[
        offload
    ]
    return MemoryEstimate(
        weights_bytes=max(on_device, 1),
        working_bytes=working,
        host_bytes=library + GPU_HOST_BYTES + (weights if offload != "none" else 0),
    )


def choose_dtype(folder: PipelineFolder, request: LoadRequest) -> str:
    """What the option says; `auto`: the weights' own format on GPUs, and what CPUs are quick in there."""
    asked = str(request.options.get("dtype") or "auto")
    if asked != "auto":
        return asked
    if request.device.kind == "cpu":
        return "float32"
    part = next((name for name in ("transformer", "unet") if name in folder.parts()), None)
    kinds = {kind for kind, values in folder.tensors(part).values() if values > 1} if part else set()
    return "bfloat16" if "BF16" in kinds else "float16"


def native_pixels(folder: PipelineFolder) -> int:
    """Of a picture as the model was trained for; what is not said is taken to be of the usual size."""
    for part in ("unet", "transformer"):
        sample = folder.json(f"{part}/config.json").get("sample_size")
        if sample:
            sides = sample if isinstance(sample, list) else [sample, sample]
            return int(sides[-1]) * int(sides[-2]) * _scale(folder) ** 2
    return (128 * _scale(folder)) ** 2


def _scale(folder: PipelineFolder) -> int:
    channels = folder.json("vae/config.json").get("block_out_channels")
    return 2 ** (len(channels) - 1) if isinstance(channels, list) else 8


def _part_bytes(folder: PipelineFolder, part: str, request: LoadRequest, width: int) -> int:
    bits = QUANTIZED_BYTES.get(str(request.options.get("quantization") or ""))
    each = bits if bits is not None and part.startswith(QUANTIZED_PARTS) else width
    return int(sum(values for _, values in folder.tensors(part).values()) * each)


def _adapter_bytes(request: LoadRequest, width: int) -> int:
    """A file of 16-bit weights becomes one of the pipeline's."""
    files = [
        file
        for path in request.adapters.values()
        for file in ([path] if path.is_file() else path.glob("*.safetensors"))
    ]
    return sum(file.stat().st_size * width // 2 for file in files)


def _working_bytes(folder: PipelineFolder, request: LoadRequest, width: int) -> int:
    """At the peak: a step of the largest batch, or one picture being decoded; they are, one by one."""
    native, options = native_pixels(folder), request.options
    largest = int(options.get("max_pixels") or 2 * native)
    batch = max(int(options["max_batch"]) * native, largest)
    decoded = min(largest, max(TILE_PIXELS, native)) if options.get("vae_tiling") else largest
    decoding = decoded * _decoded_channels(folder) * DECODED_MAPS
    # Guidance computes every picture twice.
    denoising = 2 * batch // _scale(folder) ** 2 * _denoised_channels(folder) * DENOISED_MAPS
    return max(decoding, denoising) * width


def _denoised_channels(folder: PipelineFolder) -> int:
    channels = folder.json("unet/config.json").get("block_out_channels")
    if isinstance(channels, list) and channels:
        return int(channels[0])
    config = folder.json("transformer/config.json")
    heads, each = config.get("num_attention_heads"), config.get("attention_head_dim")
    inner = heads * each if isinstance(heads, int) and isinstance(each, int) else 3072
    return inner // 4  # a token of a transformer stands for four of a UNet's


def _decoded_channels(folder: PipelineFolder) -> int:
    config: dict[str, Any] = folder.json("vae/config.json")
    channels = config.get("block_out_channels")
    return int(channels[0]) if isinstance(channels, list) and channels else int(config.get("base_dim") or 128)
