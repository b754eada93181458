"""`python -m tests.bench.families [--rounds N] [SECTION…]`: embeddings, audio, pictures, the batcher."""

from __future__ import annotations

import sys
from typing import Final

from tests.bench import sections
from tests.bench.cold import first_answers
from tests.bench.families import batcher, rerank, speech, transcription, vectors

SECTIONS: Final[dict[str, sections.Section]] = {
    "batcher": batcher.run,
    "cold": first_answers.run,
    "embeddings": vectors.run,
    "rerank": rerank.run,
    "speech": speech.run,
    "transcription": transcription.run,
}

if __name__ == "__main__":
    sys.exit(sections.main("python -m tests.bench.families", SECTIONS, sys.argv[1:]))
