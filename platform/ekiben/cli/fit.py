"""Whether a model fits into memory, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ekiben.cli.output import format_bytes


def format_fit(fit: Mapping[str, Any]) -> str:
    """From `GET /api/models/{model}/fit`: the verdict, what is needed of what, and who would go."""
    match fit["fits"]:
        case "loaded":
            return f"loaded: holds {_sizes(fit['need'])}"
        case "now":
            return f"now: {_needs(fit)}"
        case "after evictions":
            return f"after unloading {', '.join(fit['would_go'])}: {_needs(fit)}"
        case "later":
            return f"not before others are loaded or done: {_needs(fit)}"
        case "never":
            return f"never: {fit['reason']}"
        case _:
            return f"unknown: {fit['reason']}" if fit["reason"] else "unknown"


def _needs(fit: Mapping[str, Any]) -> str:
    free = {device: max(0, fit["free"][device]) for device in fit["need"] if device in fit["free"]}
    return f"needs {_sizes(fit['need'])}; free: {_sizes(free) or 'no limit'}"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{format_bytes(size)} on {device}" for device, size in sizes.items())
