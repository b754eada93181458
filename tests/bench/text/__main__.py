"""`python -m tests.bench.text [--rounds N] [SECTION…]`: text, beside the engines' own servers."""

from __future__ import annotations

import sys
from typing import Final

from tests.bench import sections
from tests.bench.text import llama_cpp, transformers, vllm

SECTIONS: Final[dict[str, sections.Section]] = {
    "llama-cpp": llama_cpp.run,
    "transformers": transformers.run,
    "vllm": vllm.run,
}

if __name__ == "__main__":
    sys.exit(sections.main("python -m tests.bench.text", SECTIONS, sys.argv[1:]))
