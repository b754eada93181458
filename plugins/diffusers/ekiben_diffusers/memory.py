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
DECODED_MAPS: Final = 8
"""Maps as wide as the VAE's first layer, of the size of the picture, at the peak of decoding."""
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
    """At the peak of the largest batch, which is when its pictures are decoded."""
    native, options = native_pixels(folder), request.options
    most = max(int(options["max_batch"]) * native, int(options.get("max_pixels") or 2 * native))
    if options.get("vae_tiling"):
        most = min(most, max(TILE_PIXELS, native))
    return most * _decoded_channels(folder) * DECODED_MAPS * width


def _decoded_channels(folder: PipelineFolder) -> int:
    config: dict[str, Any] = folder.json("vae/config.json")
    channels = config.get("block_out_channels")
    return int(channels[0]) if isinstance(channels, list) and channels else int(config.get("base_dim") or 128)
