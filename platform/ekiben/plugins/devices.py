"""Which kinds of device an engine can use as it is installed, told without importing it.

Many libraries come in a build for the CPU and others for GPUs, all under one name. A GPU in the machine is
of no use to an engine whose installed build does not know it.
"""

from __future__ import annotations

from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ekiben.contract.manifest import BuildMark
from ekiben.plugins.discovery import Plugins


def usable_kinds(plugins: Plugins, engine: str) -> frozenset[str]:
    """`cpu`, `cuda`, `rocm`: those whose requirements are met where the engine lives, less those that the
    build there lacks."""
    plugin = plugins.engines().get(engine)
    if plugin is None or plugin.manifest.engine is None:
        return frozenset({"cpu"})
    section = plugin.manifest.engine
    standing = plugins.standing(plugin)
    kinds = standing.kinds if standing.ready else section.devices
    return frozenset(
        kind
        for kind in section.devices
        if kind in kinds
        and (kind not in section.builds or _is_installed(section.builds[kind], standing.sites))
    )


@cache
def _is_installed(mark: BuildMark, sites: tuple[Path, ...]) -> bool:
    """Reads the file, if it must: a tenth of a second for a large one."""
    files = (file for site in sites for file in site.glob(mark.file))
    return any(mark.names is None or _names(file, mark.names) for file in files)


def _names(file: Path, text: str) -> bool:
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(text.encode()) >= 0
