"""Ekiben: name any model through the OpenAI API; it starts when asked and is gone when idle."""

from typing import Final

__version__: Final = "0.1.0"
