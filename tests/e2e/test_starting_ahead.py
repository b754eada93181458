"""A model that has always followed another one is there before it is asked for."""

from __future__ import annotations

import re
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ekiben.store.database import Database, sqlite_url
from ekiben.store.records import Records
from tests.running import Platform, wait_until

CHAT = "smollm2-135m-instruct"
VOICE = "piper-en-us-joe"
HOURS = 12


def chat(platform: Platform) -> None:
    platform.client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Name a fruit."}], max_tokens=4
    )


def speak(platform: Platform) -> None:
    platform.client.audio.speech.create(model=VOICE, voice="default", input="Yes.", response_format="wav")


def live_through(home: Path) -> None:
    """Half a day in which somebody asked every hour, and had the answer spoken."""
    database = Database.open(sqlite_url(home / "ekiben.db"))
    records = Records(database)
    for hours in range(HOURS, 0, -1):
        at = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
        records.add_arrival(CHAT, at=at)
        records.add_arrival(VOICE, at=at + 20)
    records.close()
    database.close()


def is_measured(home: Path, model: str) -> bool | None:
    with closing(sqlite3.connect(home / "ekiben.db")) as connection:
        tables = [f"SELECT 1 FROM {table} WHERE model = ?" for table in ("needs", "starts")]
        return all(connection.execute(query, (model,)).fetchone() for query in tables) or None


def metric(platform: Platform, name: str, labels: str) -> float:
    with urllib.request.urlopen(platform.url + "/metrics", timeout=30) as response:
        found = re.search(rf"^{name}{{{labels}}} (\S+)$", response.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_the_second_model_is_ready_when_it_is_asked_for(make_platform: Callable[..., Platform]) -> None:
    platform = make_platform(env={"EKIBEN_KEEP_ALIVE": "5m"})
    live_through(platform.home)
    platform.start()
    speak(platform)
    wait_until(lambda: is_measured(platform.home, VOICE), "the voice to be measured")
    platform.post(f"/api/models/{VOICE}/stop")

    chat(platform)
    ready = platform.wait_for(VOICE, "ready")
    assert ready["waiting"] == 0
    (prewarm,) = platform.get("/api/prewarms")["prewarms"]
    assert (prewarm["model"], prewarm["after"], prewarm["outcome"]) == (VOICE, CHAT, "waiting")

    pid = platform.replica_pid(VOICE)
    speak(platform)
    assert platform.replica_pid(VOICE) == pid, "it was warm"
    assert platform.get("/api/prewarms")["prewarms"][0]["outcome"] == "used"
    used = f'model="{VOICE}",outcome="used",trigger="pattern"'
    assert metric(platform, "ekiben_prewarms_total", used) == 1
    assert metric(platform, "ekiben_starts_total", f'model="{VOICE}",outcome="ready"') == 2
