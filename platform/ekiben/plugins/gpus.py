"""The GPUs of this machine and their memory: NVIDIA's through NVML, AMD's through the files of the kernel.

Nothing here starts a GPU or holds memory on one. A GPU is named by its number among all of its maker,
in the order of the bus.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

logger = logging.getLogger(__name__)

_NVML_LIBRARY: Final = "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU at one moment."""

    device: str
    """`cuda:0`, `rocm:1`."""
    name: str
    total_bytes: int
    used_bytes: int
    """By everybody."""


class GpuReader(Protocol):
    """One way to see GPUs."""

    def read(self) -> list[Gpu]:
        """All of them, as they are now; those that cannot be read are left out."""


def gpu_readers(*, visible: str | None, root: Path = Path("/")) -> list[GpuReader]:
    """Those that work here. `visible`: the GPUs that may be used, as in CUDA_VISIBLE_DEVICES."""
    readers: list[GpuReader] = []
    nvml = _nvml()
    if nvml is not None:
        readers.append(NvmlReader(nvml, visible=visible))
    if (root / "dev/kfd").exists():
        readers.append(AmdReader(root))
    return readers


def _nvml() -> Any:
    """NVIDIA's library, ready for questions; None where there is none."""
    import ctypes

    try:
        ctypes.CDLL(_NVML_LIBRARY)
    except OSError:
        return None
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.warning("the NVIDIA GPUs cannot be seen: %s", error)
        return None
    return pynvml


class NvmlReader:
    """NVIDIA's GPUs. `nvml` is the module `pynvml`, after `nvmlInit`."""

    def __init__(self, nvml: Any, *, visible: str | None = None) -> None:
        self._nvml = nvml
        self._wanted = None if visible is None else [item.strip() for item in visible.split(",")]
        self._told: set[str] = set()

    def read(self) -> list[Gpu]:
        return list(self._gpus())

    def _gpus(self) -> Iterator[Gpu]:
        try:
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            self._tell("the NVIDIA GPUs cannot be counted: %s", error)
            return
        for index in range(count):
            try:
                gpu = self._gpu(index)
            except self._nvml.NVMLError as error:
                self._tell(f"the NVIDIA GPU {index} cannot be read: %s", error)
            else:
                if gpu is not None:
                    yield gpu

    def _gpu(self, index: int) -> Gpu | None:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if not self._may_use(index, str(nvml.nvmlDeviceGetUUID(handle))):
            return None
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(
            device=f"cuda:{index}",
            name=str(nvml.nvmlDeviceGetName(handle)),
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
        )

    def _tell(self, text: str, error: Exception) -> None:
        """Once: it is looked at every few seconds."""
        if text not in self._told:
            self._told.add(text)
            logger.warning(text, error)

    def _may_use(self, index: int, uuid: str) -> bool:
        if self._wanted is None:
            return True
        return any(item == str(index) or (item and uuid.startswith(item)) for item in self._wanted)


class AmdReader:
    """AMD's GPUs, as the kernel's driver shows them: no library is needed."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._folder = root / "sys/class/drm"

    def read(self) -> list[Gpu]:
        return [gpu for index, card in enumerate(self._cards()) if (gpu := _amd_gpu(card, index)) is not None]

    def _cards(self) -> Sequence[Path]:
        """By their place on the bus, as the runtime numbers them."""
        found = self._folder.glob("card*/device/mem_info_vram_total")
        return sorted({path.parent.resolve() for path in found}, key=lambda folder: folder.name)


def _amd_gpu(card: Path, index: int) -> Gpu | None:
    try:
        total = int((card / "mem_info_vram_total").read_text())
        used = int((card / "mem_info_vram_used").read_text())
    except (OSError, ValueError):
        return None
    name = card / "product_name"
    text = name.read_text().strip() if name.is_file() else ""
    return Gpu(device=f"rocm:{index}", name=text or "AMD GPU", total_bytes=total, used_bytes=used)


def hardware(root: Path = Path("/")) -> tuple[str, ...]:
    """The kinds of device that this machine has, best first: `cuda`, `rocm`, and `cpu` always."""
    seen = {
        gpu.device.partition(":")[0]
        for reader in gpu_readers(visible=None, root=root)
        for gpu in reader.read()
    }
    return (*(kind for kind in ("cuda", "rocm") if kind in seen), "cpu")
