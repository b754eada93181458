"""Migrations of the schema, in order. Imported only when a database is not at the newest revision.

A published revision is never edited: a change is a new file in `versions/` and a new entry in
`ekiben.store.schema.REVISIONS`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def configuration() -> Config:
    """Alembic's configuration; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a revision, the newest by default, within the connection's own transaction."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
