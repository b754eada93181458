"""xllamacpp, imported with its threads told to wait politely.

Its OpenMP threads meet a few hundred times for each token. While one waits for another it spins, by
default for about a millisecond: on cores that something else wants too (a second model, this process's
own event loop) that starves the one it waits for, and answers become ten times as slow. The library reads
the setting when it is loaded, so this module must be the first to import it.
"""

from __future__ import annotations

import os
from typing import Any, Final

SPINS: Final = 1000
"""Some ten microseconds: as long as threads wait for each other that have a core each."""

os.putenv("GOMP_SPINCOUNT", str(SPINS))

import xllamacpp as _xllamacpp  # type: ignore[import-untyped]  # noqa: E402

llama: Any = _xllamacpp
