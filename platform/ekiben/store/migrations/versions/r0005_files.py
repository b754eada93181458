"""Files that clients leave with the platform, and batches of requests over them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), index=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("input_id", sa.String(64), nullable=False),
        sa.Column("output_id", sa.String(64), nullable=False),
        sa.Column("error_id", sa.String(64), nullable=False),
        sa.Column("keep_s", sa.Integer),
        sa.Column("batch", sa.Text, nullable=False),
    )
