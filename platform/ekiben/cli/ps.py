"""`ekiben ps`: what runs, what is on its way, and what is kept warm for it."""

from __future__ import annotations

from typing import Any

import click

from ekiben.cli.output import echo_json, echo_table, format_bytes, format_seconds, format_share, json_option
from ekiben.cli.session import Session


@click.command()
@json_option
@click.pass_obj
def ps(session: Session, as_json: bool) -> None:
    """Show the models that run, are starting, or failed to."""
    platform = session.platform()
    models = [m for m in platform.get("/api/models")["models"] if m["state"] != "cold"]
    if as_json:
        echo_json(models)
        return
    titles = (
        "MODEL",
        "STATE",
        "STAGE",
        "START",
        "ENGINE",
        "MEMORY",
        "IN FLIGHT",
        "WAITING",
        "UNLOADS IN",
    )
    echo_table(titles, [_row(model) for model in models], empty="no model runs: the first request starts one")
    processes = platform.get("/api/replicas")
    for zygote in processes["zygotes"]:
        click.echo(f"kept warm: {zygote['engine']}, {format_bytes(zygote['memory_bytes'])}")
    for device, memory in processes["memory"].items():
        budget = "" if memory["budget_bytes"] is None else f" of {format_bytes(memory['budget_bytes'])}"
        click.echo(f"memory of {device}: {format_bytes(memory['held_bytes'])}{budget}")
    for model in models:
        if model.get("error"):
            click.echo(f"{model['name']}: {model['error']}", err=True)


def _row(m: dict[str, Any]) -> tuple[str, ...]:
    return (
        m["name"],
        m["state"],
        _stage(m),
        _took(m),
        ", ".join(sorted({replica["engine"] for replica in m["replicas"]})),
        format_bytes(m["memory_bytes"]),
        str(m["in_flight"]),
        str(m["waiting"]),
        format_seconds(m["unloads_in_s"]),
    )


def _stage(m: dict[str, Any]) -> str:
    """Where it is on its way, and for how long still."""
    if m["state"] == "failed" and m.get("retry_in_s") is not None:
        return f"tries again in {format_seconds(m['retry_in_s'])}"
    stage: str = m["stage"] if m["stage"] != m["state"] else ""
    if m.get("progress") is not None and m["state"] != "ready":
        stage = f"{stage or m['state']} {format_share(m['progress'])}"
    if m.get("eta_s") is not None:
        stage = f"{stage or m['state']}, {format_seconds(m['eta_s'])} left"
    return stage or ", ".join(map(_far, m.get("work") or ()))


def _far(work: dict[str, Any]) -> str:
    """How far a request has come that takes long."""
    total = "" if work["total"] is None else f" of {work['total']:g}"
    return f"{work['done']:g}{total} {work['unit']}"


def _took(m: dict[str, Any]) -> str:
    """The stages of its start; of the last one, when it has several replicas."""
    stages_s = m.get("stages_s") or (m["replicas"][-1].get("stages_s") if m["replicas"] else None) or {}
    return ", ".join(f"{stage.replace('_', ' ')} {format_seconds(s)}" for stage, s in stages_s.items())
