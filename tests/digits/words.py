"""The words for digits: what is said of a picture while the model learns, and the tokenizer for it."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASES = (
    "a handwritten {}",
    "a handwritten {}",
    "{}",
    "the digit {}",
    "the number {}",
    "a handwritten digit: {}",
    "a picture of the number {}",
    "a drawing of a {}",
)
MAX_TOKENS = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def prompts(digit: int) -> list[str]:
    """All that is said of pictures of a digit."""
    return [phrase.format(name) for phrase in PHRASES for name in (NAMES[digit], str(digit))]


def tokenizer() -> CLIPTokenizer:
    """Knows the words above as one token each, and spells all others byte by byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges()
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    words = {piece: number for number, piece in enumerate(dict.fromkeys([START, END, *pieces]))}
    made = CLIPTokenizer(vocab=words, merges=merges, model_max_length=MAX_TOKENS)  # type: ignore[arg-type]
    for text in (" ".join(NAMES[:5]), " ".join(NAMES[5:])):
        assert len(made(text)["input_ids"]) == 5 + 2, text
    return made


def _merges() -> list[tuple[str, str]]:
    """As the tokenizers' own trainer finds them, until each word is one piece."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [prompt for digit in range(len(NAMES)) for prompt in prompts(digit)]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(sorted(texts), trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
