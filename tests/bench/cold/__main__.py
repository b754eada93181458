"""`python -m tests.bench.cold [--rounds N] [SECTION…]`: cold starts, beside other servers."""

from __future__ import annotations

import sys
from typing import Final

from tests.bench import sections
from tests.bench.cold import adoption, catalog, crowd, fairness, first_answers, first_token, memory, swap

SECTIONS: Final[dict[str, sections.Section]] = {
    "first-token": first_token.run,
    "first-answers": first_answers.run,
    "crowd": crowd.run,
    "swap": swap.run,
    "fairness": fairness.run,
    "memory": memory.run,
    "adoption": adoption.run,
    "catalog": catalog.run,
}

if __name__ == "__main__":
    sys.exit(sections.main("python -m tests.bench.cold", SECTIONS, sys.argv[1:]))
