"""Ending with the parent: a replica with its platform, a worker of `bentoml serve` with its supervisor.

The supervisor of `bentoml serve` leaves its workers serving when it is killed; it marks itself in
their environment, so that a worker knows whom to follow.
"""

from __future__ import annotations

import os

from ekiben.contract.parent import die_with_parent
from ekiben.settings import export, load_standalone_settings

__all__ = ["die_with_parent", "follow_supervisor", "mark_supervisor"]


def mark_supervisor() -> None:
    """Called in the supervisor before it starts workers.

    BentoML keeps starting a worker anew that cannot load its model, while clients hang on the open port;
    in a container it ends instead, so that whoever runs it sees the failure. A model is never better
    served by hanging, so workers are told that they live in a container everywhere.
    """
    export({"EKIBEN_SUPERVISOR_PID": str(os.getpid()), "BENTOML_CONTAINERIZED": "true"})


def follow_supervisor() -> None:
    """Called in a worker of `bentoml serve`: end when its supervisor does."""
    supervisor_pid = load_standalone_settings().supervisor_pid
    if supervisor_pid is not None:
        die_with_parent(supervisor_pid)
