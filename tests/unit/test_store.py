"""The database: made, migrated, durable settings, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from ekiben.errors import ConfigError
from ekiben.store.database import Database, sqlite_url
from ekiben.store.migrations import configuration
from ekiben.store.models import ModelStore
from ekiben.store.schema import HEAD, METADATA, REVISIONS

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def open_at(path: Path) -> Database:
    return Database.open(sqlite_url(path))


def test_models_are_put_listed_and_deleted(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    store = ModelStore(database)
    assert store.all() == []
    store.put("b", spec="{}", now=NOW)
    store.put("a", spec='{"x": "ü😀"}', now=NOW)
    store.put("b", spec="[]", now=NOW + timedelta(hours=1))
    assert [(row.name, row.spec, row.created_at, row.updated_at) for row in store.all()] == [
        ("a", '{"x": "ü😀"}', NOW, NOW),
        ("b", "[]", NOW, NOW + timedelta(hours=1)),
    ]
    assert store.delete("b")
    assert not store.delete("b")
    assert [row.name for row in store.all()] == ["a"]
    database.close()


def test_times_come_back_in_utc(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    elsewhere = datetime.fromisoformat("2026-06-01T12:00:00+09:00")
    ModelStore(database).put("a", spec="{}", now=elsewhere)
    (row,) = ModelStore(database).all()
    assert row.created_at == elsewhere
    assert row.created_at.tzinfo is UTC
    database.close()


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "odd ?name%20#.db"
    database = open_at(path)
    ModelStore(database).put("a", spec="{}", now=NOW)
    database.close()
    assert path.exists()
    again = open_at(path)
    assert [row.name for row in ModelStore(again).all()] == ["a"]
    again.close()


def test_a_transaction_that_raises_leaves_nothing(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    statement = text("INSERT INTO models VALUES ('a', '{}', '2026-01-01 00:00:00', '2026-01-01 00:00:00')")
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute(statement)
        raise ZeroDivisionError
    assert ModelStore(database).all() == []
    database.close()


def test_sqlite_is_set_to_survive_loss_of_power(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    with database.reading() as connection:
        values = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    database.close()


def test_many_threads_may_write(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    store = ModelStore(database)
    failures: list[Exception] = []

    def write(thread: int) -> None:
        try:
            for n in range(10):
                store.put(f"{thread}-{n}", spec="{}", now=NOW)
        except Exception as error:  # noqa: BLE001 - told to the test below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.all()) == 80
    database.close()


def test_the_migrations_make_the_schema_that_the_code_expects(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    database.close()


def test_the_code_knows_all_revisions_in_their_order() -> None:
    scripts = ScriptDirectory.from_config(configuration())
    found = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(found)) == REVISIONS
    assert scripts.get_current_head() == HEAD


OPEN_AND_TELL = """
import sys
from ekiben.store.database import Database
Database.open("sqlite:///" + sys.argv[1]).close()
print("alembic" in sys.modules)
"""


def test_the_migration_tool_is_imported_only_when_there_is_something_to_migrate(tmp_path: Path) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", OPEN_AND_TELL, str(tmp_path / "x.db")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert told == ["True", "False"]


def test_an_interrupted_migration_is_begun_anew(tmp_path: Path) -> None:
    """Everything happens in one transaction: the version table alone is what an older tool would leave."""
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    raw.close()
    database = open_at(path)
    assert ModelStore(database).all() == []
    database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE models (other TEXT)")
    raw.close()
    with pytest.raises(ConfigError, match=r"x\.db cannot be used \(table models already exists\)"):
        open_at(path)
    with sqlite3.connect(path) as raw:
        assert [row[0] for row in raw.execute("SELECT name FROM sqlite_master")] == ["models"]
    raw.close()


def test_a_schema_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_at(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(
        ConfigError, match=r"was written by a newer version \(schema '9999', this .* '0005'\): upgrade"
    ):
        open_at(path)


@pytest.mark.parametrize("damage", [slice(0, 100), slice(0, 4096), slice(100, 4096)])
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage: slice) -> None:
    path = tmp_path / "x.db"
    database = open_at(path)
    ModelStore(database).put("a", spec="{}", now=NOW)
    database.close()
    data = bytearray(path.read_bytes())
    data[damage] = b"\xa5" * (damage.stop - damage.start)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.db is damaged: put a backup in its place, or move it away"):
        open_at(path)
    assert path.read_bytes() == data


def test_a_damaged_table_is_told_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    database = open_at(path)
    ModelStore(database).put("a", spec="x" * 20_000, now=NOW)
    database.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged"):
        ModelStore(open_at(path)).all()


def test_a_folder_or_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be opened: mend the folder or its permissions"):
        open_at(tmp_path / "none" / "x.db")
    with pytest.raises(ConfigError, match=r"cannot be opened: mend the folder or its permissions"):
        open_at(tmp_path)


def test_a_database_that_another_program_holds_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ekiben.store.database._PRAGMAS", ("PRAGMA busy_timeout = 10",))
    path = tmp_path / "x.db"
    database = open_at(path)
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match="is locked by another program: end that program"):
            ModelStore(database).put("a", spec="{}", now=NOW)
        other.rollback()
    other.close()
    ModelStore(database).put("a", spec="{}", now=NOW)
    database.close()


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    database = open_at(tmp_path / "x.db")
    store = ModelStore(database)
    store.put("a", spec="{}", now=NOW)
    with database.reading() as connection:  # the pool hands the same connection out again
        connection.execute(text("PRAGMA max_page_count = 8"))
    with pytest.raises(ConfigError, match="cannot grow: free some space on its disk"):
        store.put("b", spec="x" * 200_000, now=NOW)
    assert [row.name for row in store.all()] == ["a"]
    store.put("c", spec="{}", now=NOW)
    database.close()


@pytest.mark.parametrize("url", ["nonsense", "", "oracle9://x", "sqlite:////tmp:/x?y"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Database.open(url)


def test_a_missing_driver_is_told_without_the_password() -> None:
    with pytest.raises(ConfigError) as caught:
        Database.open("mysql+pymysql://me:secret@localhost/x")
    assert "needs the driver 'pymysql': install it with pip" in caught.value.message
    assert "secret" not in caught.value.message
