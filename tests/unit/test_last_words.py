"""The end of a log, told to who asks why a model failed."""

from __future__ import annotations

from pathlib import Path

from ekiben.fleet.processes.last_words import MAX_CHARACTERS, last_words

LOG = """\
2026-11-22 20:00:00,000 INFO loading
Traceback (most recent call last):
  File "engine.py", line 1, in load
    eat()
MemoryError: too much

2026-11-22 20:00:01,000 INFO going
"""


def test_the_last_lines_are_told_without_routine(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(LOG)
    assert last_words(log, since_byte=0) == "MemoryError: too much"


def test_lines_of_earlier_processes_are_not_told(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text(LOG)
    assert last_words(log, since_byte=log.stat().st_size) == ""


def test_no_log_has_no_words(tmp_path: Path) -> None:
    assert last_words(tmp_path / "none.log", since_byte=0) == ""


def test_long_and_broken_words_are_bounded(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"\xff" * 100_000)
    assert len(last_words(log, since_byte=0)) == MAX_CHARACTERS
