"""What the fleet has learned: needs of memory, durations of starts, habits of use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "needs",
        *_run_columns(),
        sa.Column("peak", sa.Text, nullable=False),
        sa.Column("floor", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "starts",
        *_run_columns(),
        sa.Column("stages_s", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "histories",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("uses", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float, nullable=False),
        sa.Column("gaps_s", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "arrivals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
    )


def _run_columns() -> list[sa.Column[str]]:
    return [
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("engine", sa.String(128), primary_key=True),
        sa.Column("options", sa.String(32), primary_key=True),
        sa.Column("device", sa.String(32), primary_key=True),
    ]
