"""What was added is there after `kill -9`: everything acknowledged, and nothing half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.catalog.catalog import Catalog
from ekiben.plugins.discovery import discover
from ekiben.store.database import Database, sqlite_url
from tests.gguf_files import gguf, write

ADD_FOR_EVER = """
import itertools, sys
from pathlib import Path
from ekiben.catalog.catalog import Catalog
from ekiben.catalog.inspect import spec_from_path
from ekiben.plugins.discovery import discover
from ekiben.store.database import Database, sqlite_url

plugins = discover()
catalog = Catalog(Database.open(sqlite_url(Path(sys.argv[1]))), plugins)
spec = spec_from_path(Path(sys.argv[2]), plugins=plugins)
for n in itertools.count(len(catalog.entries())):
    catalog.add(spec.model_copy(update={"name": f"m{n}"}))
    print(f"m{n}", flush=True)
"""


@pytest.mark.parametrize("acknowledged_before_the_kill", [1, 25, 60])
def test_every_acknowledged_model_survives_kill_9(tmp_path: Path, acknowledged_before_the_kill: int) -> None:
    weights = write(tmp_path / "tiny.gguf", gguf())
    path = tmp_path / "x.db"
    acknowledged: list[str] = []
    for _ in range(2):  # the second round opens what the first one left
        child = subprocess.Popen(
            [sys.executable, "-c", ADD_FOR_EVER, str(path), str(weights)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(acknowledged_before_the_kill):
            acknowledged.append(child.stdout.readline().strip())
        os.kill(child.pid, signal.SIGKILL)
        # A line is written in one piece, so what is in the pipe was acknowledged before the kill.
        acknowledged += child.stdout.read().split()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    database = Database.open(sqlite_url(path))
    catalog = Catalog(database, discover())
    there = {entry.spec.name for entry in catalog.entries()}
    assert len(acknowledged) >= 2 * acknowledged_before_the_kill
    assert set(acknowledged) <= there
    assert catalog.broken() == []
    database.close()
