"""How much of the host may be used: control groups of both versions, nested ones, and what others hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.fleet.memory.cgroups import Group, limiting_groups
from ekiben.fleet.memory.host import Host, held_bytes, read_host

GIB = 2**30
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nCached: 4194304 kB\n"
VERSION_2 = "29 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
VERSION_1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
)


class Machine:
    """The files of a machine, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", MEMINFO)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def groups(self, place: str, mounts: str) -> None:
        self.write("proc/self/cgroup", place)
        self.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)

    def group_2(self, path: str, *, limit: str, high: str = "max", used: int = 0, cache: int = 0) -> None:
        folder = f"sys/fs/cgroup/{path}"
        self.write(f"{folder}/memory.max", f"{limit}\n")
        self.write(f"{folder}/memory.high", f"{high}\n")
        self.write(f"{folder}/memory.current", f"{used}\n")
        stat = f"anon 1\nfile {cache}\ninactive_file {cache // 2}\nactive_file {cache // 2}\n"
        self.write(f"{folder}/memory.stat", stat)

    def group_1(self, path: str, *, limit: int, used: int = 0, cache: int = 0) -> None:
        folder = f"sys/fs/cgroup/memory/{path}"
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{used}\n")
        stat = f"inactive_file 7\ntotal_inactive_file {cache}\ntotal_active_file 0\n"
        self.write(f"{folder}/memory.stat", stat)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_control_groups_the_machine_counts(machine: Machine) -> None:
    assert read_host(machine.root) == Host(16 * GIB, 8 * GIB)
    machine.write("proc/meminfo", "MemTotal: 1024 kB\nMemFree: 16 kB\nCached: 32 kB\n")
    assert read_host(machine.root) == Host(1024 * 1024, 48 * 1024)


def test_the_tightest_group_on_the_way_up_counts(machine: Machine) -> None:
    machine.groups("0::/user.slice/session/app\n", VERSION_2.format(root="/"))
    machine.group_2("user.slice/session/app", limit="max")
    machine.group_2("user.slice/session", limit=str(4 * GIB), used=3 * GIB, cache=2 * GIB)
    machine.group_2("user.slice", limit=str(6 * GIB), used=5 * GIB)
    machine.group_2("user.slice/stranger", limit=str(GIB))
    assert limiting_groups(machine.root) == [Group(4 * GIB, GIB), Group(6 * GIB, 5 * GIB)]
    assert read_host(machine.root) == Host(4 * GIB, GIB)  # 6 - 5, although the tighter one leaves 3


def test_a_group_that_is_throttled_before_its_limit(machine: Machine) -> None:
    machine.groups("0::/a\n", VERSION_2.format(root="/"))
    machine.group_2("a", limit=str(8 * GIB), high=str(2 * GIB), used=3 * GIB)
    assert read_host(machine.root) == Host(2 * GIB, 0)


@pytest.mark.parametrize("place", ["0::/\n", "0::/../../system.slice/x\n", "0::/docker/0123\n"])
def test_a_container_sees_its_own_group_as_the_mount(machine: Machine, place: str) -> None:
    machine.groups(place, VERSION_2.format(root="/" if place != "0::/docker/0123\n" else "/docker/0123"))
    machine.group_2("", limit=str(2 * GIB), used=GIB)
    assert read_host(machine.root) == Host(2 * GIB, GIB)


def test_version_1_with_a_nested_group(machine: Machine) -> None:
    place = "4:memory:/docker/0123/inner\n1:cpu:/other\n0::/elsewhere\n"
    machine.groups(place, VERSION_1.format(root="/docker/0123"))
    machine.group_1("", limit=3 * GIB, used=2 * GIB, cache=GIB)
    machine.group_1("inner", limit=9223372036854771712, used=GIB)
    assert limiting_groups(machine.root) == [Group(3 * GIB, GIB)]
    assert read_host(machine.root) == Host(3 * GIB, 2 * GIB)


def test_version_1_with_several_controllers_in_one_hierarchy(machine: Machine) -> None:
    mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpuset,memory\n"
    machine.groups("4:cpuset,memory:/a\n", mounts)
    machine.group_1("a", limit=GIB, used=100)
    assert read_host(machine.root) == Host(GIB, GIB - 100)


def test_files_that_cannot_be_understood_limit_nothing(machine: Machine) -> None:
    machine.groups("nonsense\n0::/a\n", VERSION_2.format(root="/") + "more nonsense\n")
    machine.group_2("a", limit="plenty")
    machine.write("sys/fs/cgroup/memory.max", "5\n")  # and no usage beside it
    assert read_host(machine.root) == Host(16 * GIB, 8 * GIB)


def test_this_machine() -> None:
    host = read_host()
    assert 0 < host.available_bytes <= host.limit_bytes
    assert host.limit_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


HOLD = """
import mmap, subprocess, sys
held = bytearray(int(sys.argv[2]))
file = open(sys.argv[3], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
read = sum(mapped[i] for i in range(0, len(mapped), 4096))
if sys.argv[1] != "0":
    subprocess.Popen([sys.executable, "-c", sys.argv[4], "0", *sys.argv[2:]])
else:
    print("there", flush=True)
sys.stdin.read()
"""


def test_what_processes_and_their_children_hold_is_counted_without_mapped_files(tmp_path: Path) -> None:
    size = 64 * 2**20
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(size))
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD, "1", str(size), str(weights), HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline() == b"there\n"
        held = held_bytes([parent.pid])
    finally:
        parent.stdin.close()
        parent.wait()
        parent.stdout.close()
    assert 2 * size <= held < 3 * size
    assert held_bytes([parent.pid]) == 0
