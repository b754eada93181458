"""`kill -9` while records are written costs the last moment's, and leaves nothing broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ekiben.store.database import Database, sqlite_url
from ekiben.store.records import Need, Records

RUN = ("m", "e", "o", "cpu")
LEARN_FOR_EVER = """
import itertools, sys
from pathlib import Path
from sqlalchemy import text
from ekiben.store.database import Database, sqlite_url
from ekiben.store.records import Need, Records

database = Database.open(sqlite_url(Path(sys.argv[1])))
records = Records(database, pause_s=0.0)
for n in itertools.count(len(records.arrivals())):
    records.keep_need(("m", "e", "o", "cpu"), Need({"cpu": n}))
    records.add_arrival("m", at=float(n))
    if n % 50 == 0:
        with database.reading() as connection:
            print(connection.execute(text("SELECT max(at) FROM arrivals")).scalar() or 0, flush=True)
"""


@pytest.mark.parametrize("lines_before_the_kill", [1, 4])
def test_records_survive_kill_9_in_order(tmp_path: Path, lines_before_the_kill: int) -> None:
    path = tmp_path / "x.db"
    written = 0.0
    for _ in range(2):  # the second round opens what the first one left
        child = subprocess.Popen(
            [sys.executable, "-c", LEARN_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(lines_before_the_kill):
            written = float(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    database = Database.open(sqlite_url(path))
    records = Records(database)
    times = [at for at, _ in records.arrivals()]
    assert times == [float(n) for n in range(len(times))]
    assert len(times) >= written
    need = records.need(RUN)
    assert need is None if not times else need is not None and abs(need.peak["cpu"] - times[-1]) <= 1
    assert need is None or need == Need({"cpu": need.peak["cpu"]})
    records.close()
    database.close()
