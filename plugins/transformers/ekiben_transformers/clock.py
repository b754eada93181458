"""The time that answers carry."""

from __future__ import annotations

from datetime import UTC, datetime


def unix_time() -> int:
    """Seconds since 1970."""
    return int(datetime.now(UTC).timestamp())
