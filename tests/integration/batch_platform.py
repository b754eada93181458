"""A gateway with batches in a process of its own, to be killed.

`python -m tests.integration.batch_platform HOME` says its port on a line, and answers after a moment.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.integration.batch_lab import batch_lab, echo
from tests.integration.gateway_lab import Seen

ANSWER_S = 0.02


async def slowly(seen: Seen, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(ANSWER_S)
    await echo(seen, writer)


async def main(home: Path) -> None:
    async with batch_lab(home) as batches:
        batches.lab.replica.script = slowly
        print(batches.lab.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
