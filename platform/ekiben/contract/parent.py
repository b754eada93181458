"""Ending with the parent, for processes that nobody else would stop once it is gone.

A killed platform can clean nothing up, so every process it starts asks the kernel to end it as well,
and so does a process which such a one starts in turn.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when the thread that started it ends; at once if that has happened.

    Usable as the `preexec_fn` of a child: it allocates nothing and takes no locks of its own.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def outlive_parent() -> None:
    """Take `die_with_parent` back, on the thread that called it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def adopt_orphans(adopt: bool = True) -> None:
    """Become the parent of descendants whose own parents end, or no longer.

    Whoever calls this must wait for them. Raises OSError where the system cannot.
    """
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "orphans cannot be adopted on this system")
