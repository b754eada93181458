"""What the platform may hold: the operator's word, the GPUs, and others who take memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import ConfigError
from ekiben.fleet.memory.allowance import GPU_SHARE, HOST_SHARE, Allowance, Amount, parse_allowance
from ekiben.fleet.memory.budgets import LOOKS, STEPS, Budgets
from ekiben.fleet.memory.host import Host
from ekiben.plugins.gpus import AmdReader, Gpu, NvmlReader, gpu_readers

GIB = 2**30
MIB = 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", {"cpu": Amount(share=HOST_SHARE), "cuda:0": Amount(share=GPU_SHARE)}),
        ("80%", {"cpu": Amount(share=0.8), "cuda:0": Amount(share=0.8)}),
        ("12GiB", {"cpu": Amount(size_bytes=12 * GIB), "cuda:0": Amount(share=GPU_SHARE)}),
        ("1.5G", {"cpu": Amount(size_bytes=1_500_000_000)}),
        ("cpu=512MiB, cuda:0=50%", {"cpu": Amount(size_bytes=512 * MIB), "cuda:0": Amount(share=0.5)}),
        ("70%,rocm:1=8GB", {"cpu": Amount(share=0.7), "rocm:1": Amount(size_bytes=8 * 10**9)}),
        ("0", {"cpu": Amount(size_bytes=0)}),
    ],
)
def test_the_operators_word(text: str, expected: dict[str, Amount]) -> None:
    allowance = parse_allowance(text)
    assert {device: allowance.amount(device) for device in expected} == expected


@pytest.mark.parametrize(
    "text", ["", "much", "120%", "-1", "cuda=5%", "cpu=", "1GiB,2GiB", "cpu=1,cpu=2", "5%,6%", "1 XB"]
)
def test_what_cannot_be_the_operators_word(text: str) -> None:
    with pytest.raises(ConfigError, match="the setting 'memory'"):
        parse_allowance(text)


@dataclass
class FakeMachine:
    """Memory that is taken and given back by others and by us."""

    limit: int = 128 * GIB
    others: int = 0
    own: int = 0

    def host(self) -> Host:
        return Host(self.limit, self.limit - self.others - self.own)

    def held(self, pids: Iterable[int]) -> int:
        return self.own


@dataclass
class FakeGpus:
    gpus: list[Gpu] = field(default_factory=list)

    def read(self) -> list[Gpu]:
        return self.gpus


def gpu(device: str = "cuda:0", *, total: int = 80 * GIB, used: int = 0) -> Gpu:
    return Gpu(device=device, name="a GPU", total_bytes=total, used_bytes=used)


def budgets(machine: FakeMachine, allowance: str = "100%", gpus: FakeGpus | None = None) -> Budgets:
    readers = [gpus] if gpus else []
    seen = Budgets(parse_allowance(allowance), host=machine.host, held=machine.held, gpus=readers)
    assert seen.now() == seen.now()
    return seen


def test_others_memory_is_not_ours() -> None:
    assert budgets(FakeMachine(others=28 * GIB)).now() == {"cpu": 100 * GIB}
    assert budgets(FakeMachine(others=28 * GIB), "50%").now() == {"cpu": 50 * GIB}


def test_what_replicas_hold_is_ours() -> None:
    machine = FakeMachine(others=28 * GIB)
    seen = budgets(machine)
    machine.own = 90 * GIB
    for _ in range(LOOKS + 1):
        seen.look()
        assert seen.now() == {"cpu": 100 * GIB}


def test_less_is_believed_only_when_it_lasts_and_more_at_once() -> None:
    machine = FakeMachine()
    seen = budgets(machine)
    machine.others = 64 * GIB
    for _ in range(LOOKS - 1):
        seen.look()
        assert seen.now() == {"cpu": 128 * GIB}
    seen.look()
    assert seen.now() == {"cpu": 64 * GIB}
    machine.others = 0
    seen.look()
    assert seen.now() == {"cpu": 128 * GIB}


def test_small_changes_are_none() -> None:
    machine = FakeMachine(others=1)
    seen = budgets(machine)
    assert seen.now() == {"cpu": 128 * GIB - 128 * GIB // STEPS}
    for _ in range(LOOKS):
        machine.others += 128 * GIB // STEPS // (LOOKS + 1)
        seen.look()
    assert seen.now() == {"cpu": 128 * GIB - 128 * GIB // STEPS}


def test_a_size_is_kept_to_whatever_others_do_up_to_all_there_is() -> None:
    machine = FakeMachine(others=120 * GIB)
    assert budgets(machine, "16GiB").now() == {"cpu": 16 * GIB}
    assert budgets(machine, "1TiB").now() == {"cpu": 128 * GIB}


def test_a_limit_that_changes_is_followed() -> None:
    machine = FakeMachine()
    seen = budgets(machine)
    machine.limit = 32 * GIB
    seen.look()
    assert seen.now() == {"cpu": 32 * GIB}


def test_gpus_have_what_was_free_at_the_quietest_moment() -> None:
    gpus = FakeGpus([gpu(used=10 * GIB), gpu("cuda:1")])
    seen = budgets(FakeMachine(), "cuda:0=50%,cuda:1=12GiB,cpu=1GiB", gpus)
    assert seen.now() == {"cpu": GIB, "cuda:0": 35 * GIB, "cuda:1": 12 * GIB}
    for used, expected in ((60, 35), (0, 40), (70, 40)):
        gpus.gpus[0] = gpu(used=used * GIB)
        seen.look()
        assert seen.now()["cuda:0"] == expected * GIB


def test_looking_goes_on_until_it_is_closed() -> None:
    seen = Budgets(Allowance())
    assert set(seen.now()) >= {"cpu"}
    seen.watch(tuple)
    seen.close()


class FakeNvml:
    """What the module `pynvml` offers, of a machine with these GPUs."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: tuple[str, str, int, int] | None) -> None:
        self._gpus = gpus

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[str, str, int, int]:
        found = self._gpus[index]
        if found is None:
            raise self.NVMLError("GPU is lost")
        return found

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(handle[0])

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(handle[1])

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        class Info:
            total, used = handle[2], handle[3]

        return Info


H100 = ("NVIDIA H100 80GB HBM3", "GPU-aaaa-1", 85520809984, 508297216)
L4 = ("NVIDIA L4", "GPU-bbbb-2", 24152899584, 0)


def test_nvidia_gpus_are_read() -> None:
    first, second = NvmlReader(FakeNvml(H100, L4)).read()
    assert first == Gpu(device="cuda:0", name=H100[0], total_bytes=H100[2], used_bytes=H100[3])
    assert (second.device, second.name) == ("cuda:1", "NVIDIA L4")


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("1", ["cuda:1"]), ("1,0", ["cuda:0", "cuda:1"]), ("GPU-bbbb", ["cuda:1"]), ("", []), ("-1", [])],
)
def test_only_gpus_that_may_be_used_are_read(visible: str, devices: list[str]) -> None:
    assert [gpu.device for gpu in NvmlReader(FakeNvml(H100, L4), visible=visible).read()] == devices


def test_a_gpu_that_is_lost_is_told_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    reader = NvmlReader(FakeNvml(None, L4))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [gpu.device for gpu in reader.read()] == ["cuda:1"]
    assert [record.getMessage() for record in caplog.records] == [
        "the NVIDIA GPU 0 cannot be read: GPU is lost"
    ]


def test_amd_gpus_are_read_from_the_kernels_files_in_the_order_of_the_bus(tmp_path: Path) -> None:
    for card, address, total in (("card1", "0000:03:00.0", 16 * GIB), ("card0", "0000:83:00.0", 24 * GIB)):
        device = tmp_path / "sys/devices" / address
        device.mkdir(parents=True)
        (device / "mem_info_vram_total").write_text(f"{total}\n")
        (device / "mem_info_vram_used").write_text("1048576\n")
        (tmp_path / "sys/class/drm" / card).mkdir(parents=True)
        (tmp_path / "sys/class/drm" / card / "device").symlink_to(device)
        (tmp_path / "sys/class/drm" / f"{card}-DP-1").mkdir()
    (tmp_path / "sys/class/drm/card2/device").mkdir(parents=True)  # a display adapter of another maker
    assert AmdReader(tmp_path).read() == [
        Gpu(device="rocm:0", name="AMD GPU", total_bytes=16 * GIB, used_bytes=MIB),
        Gpu(device="rocm:1", name="AMD GPU", total_bytes=24 * GIB, used_bytes=MIB),
    ]


def test_a_machine_without_amds_driver_has_no_reader_for_it(tmp_path: Path) -> None:
    assert not any(isinstance(r, AmdReader) for r in gpu_readers(visible=None, root=tmp_path))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert any(isinstance(r, AmdReader) for r in gpu_readers(visible=None, root=tmp_path))
