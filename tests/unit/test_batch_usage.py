"""Sums of usage over the answers of a batch, whatever the endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.batch_usage import BatchUsage

from ekiben.gateway.batches.usage import Usage

CHAT = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
RESPONSE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 1},
}
EMBEDDING = {"prompt_tokens": 9, "total_tokens": 9}


def test_endpoints_are_summed() -> None:
    usage = Usage()
    for each in (CHAT, RESPONSE, EMBEDDING):
        usage.add({"usage": each})
    told = BatchUsage.model_validate(usage.told(), strict=True)
    assert (told.input_tokens, told.output_tokens, told.total_tokens) == (26, 9, 35)
    assert told.input_tokens_details.cached_tokens == 8
    assert told.output_tokens_details.reasoning_tokens == 4


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "not JSON",
        [],
        {},
        {"usage": None},
        {"usage": {"prompt_tokens": None, "prompt_tokens_details": None}},
        {"usage": {"input_tokens": "9", "input_tokens_details": [1]}},
    ],
)
def test_what_says_nothing_adds_nothing(answer: Any) -> None:
    usage = Usage()
    usage.add(answer)
    assert usage.told()["total_tokens"] == 0
