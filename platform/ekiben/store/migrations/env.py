"""Run by Alembic: applies the revisions on the connection that `upgrade` hands over."""

from __future__ import annotations

from alembic import context

from ekiben.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
