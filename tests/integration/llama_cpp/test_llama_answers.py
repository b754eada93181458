"""Chats and completions of the llama_cpp engine, over a real model."""

from __future__ import annotations

import json

import pytest
from openai.types import Completion

from ekiben_llama_cpp.model import LlamaModel
from tests.integration.llama_lab import (
    FRUITS,
    STORY,
    chat,
    chunks_of_chat,
    chunks_of_completion,
    text_of,
    tokens_of,
    whole_chat,
    whole_completion,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_chat_is_answered(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS)
    content = answer.choices[0].message.content
    assert content is not None
    assert all(fruit in content for fruit in ("Bananas", "Oranges", "Grapes"))
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_says_the_same_in_pieces(model: LlamaModel) -> None:
    chunks = await chunks_of_chat(model, messages=FRUITS)
    assert text_of(chunks) == (await whole_chat(model, messages=FRUITS)).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 5


async def test_usage_comes_in_a_chunk_of_its_own_when_it_is_asked_for(model: LlamaModel) -> None:
    raw = [
        json.loads(item)
        async for item in chat(
            model, messages=FRUITS, stream=True, stream_options={"include_usage": True}, n=2
        )
    ]
    assert raw[-1]["choices"] == []
    assert raw[-1]["usage"]["completion_tokens"] == 2 * 15
    assert raw[-1]["usage"]["prompt_tokens"] == 34
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in raw[:-1])


async def test_several_answers_are_numbered_and_counted(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, n=3, temperature=1.5, seed=1, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 8
    chunks = await chunks_of_chat(model, messages=FRUITS, n=3, max_tokens=4)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1, 2}


async def test_the_limit_of_tokens_is_kept(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, max_tokens=None, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_stop_ends_the_text_before_it(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, stop=["Oranges"])
    assert answer.choices[0].message.content == "1. Bananas\n2. "
    assert answer.choices[0].finish_reason == "stop"


async def test_a_seed_makes_chance_repeatable(model: LlamaModel) -> None:
    async def drawn(seed: int) -> str | None:
        answer = await whole_chat(model, messages=STORY, temperature=1.5, seed=seed)
        return answer.choices[0].message.content

    assert await drawn(11) == await drawn(11)
    assert await drawn(11) != await drawn(12)


async def test_a_token_can_be_forbidden(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, logit_bias={"33": -100})  # "1"
    assert not (answer.choices[0].message.content or "").startswith("1")


async def test_log_probabilities_have_openais_shape(model: LlamaModel) -> None:
    answer = await whole_chat(model, messages=FRUITS, logprobs=True, top_logprobs=3, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(item.token for item in logprobs.content) == answer.choices[0].message.content
    assert all(len(item.top_logprobs) == 3 and item.logprob <= 0 for item in logprobs.content)
    bare = await whole_chat(model, messages=FRUITS, logprobs=True, max_tokens=2)
    assert bare.choices[0].logprobs is not None
    assert [item.top_logprobs for item in bare.choices[0].logprobs.content or ()] == [[], []]
    chunks = await chunks_of_chat(model, messages=FRUITS, logprobs=True, top_logprobs=1, max_tokens=3)
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert sum(len(item.content or ()) for item in told) == 3


async def test_completions_take_every_kind_of_prompt(model: LlamaModel) -> None:
    text = await whole_completion(model, prompt="Once upon a")
    assert text.usage is not None
    assert text.usage.completion_tokens == 16
    tokens = await tokens_of(model, "Once upon a")
    assert (await whole_completion(model, prompt=tokens)).choices[0].text == text.choices[0].text
    several = await whole_completion(model, prompt=[tokens, tokens], n=2, max_tokens=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.usage is not None
    assert several.usage.prompt_tokens == 2 * len(tokens)
    assert several.usage.completion_tokens == 8
    echoed = await whole_completion(model, prompt=["Once upon a", "The end"], echo=True, max_tokens=2)
    assert [choice.text[:7] for choice in echoed.choices] == ["Once up", "The end"]


async def test_streamed_completions_say_the_same(model: LlamaModel) -> None:
    whole = await whole_completion(model, prompt="Once upon a", max_tokens=6, logprobs=2, echo=False)
    chunks = await chunks_of_completion(
        model, prompt="Once upon a", max_tokens=6, logprobs=2, stream_options={"include_usage": True}
    )
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == whole.choices[0].text
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    offsets = [
        offset
        for chunk in chunks
        for choice in chunk["choices"]
        for offset in (choice["logprobs"] or {"text_offset": []})["text_offset"]
    ]
    assert whole.choices[0].logprobs is not None
    assert offsets == whole.choices[0].logprobs.text_offset
    bare = await chunks_of_completion(model, prompt=["a", "b"], max_tokens=2, echo=True)
    assert all("usage" not in chunk for chunk in bare)
    first: dict[int, str] = {}
    for chunk in bare:
        first.setdefault(chunk["choices"][0]["index"], chunk["choices"][0]["text"])
    assert (first[0][0], first[1][0]) == ("a", "b")


async def test_legacy_log_probabilities_add_up(model: LlamaModel) -> None:
    answer = await whole_completion(model, prompt="Once upon a", logprobs=2, max_tokens=5)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert [len(top) for top in logprobs.top_logprobs or ()] == [2] * 5
    assert (logprobs.text_offset or [])[0] == 0


async def test_the_best_of_several_is_the_likeliest(model: LlamaModel) -> None:
    def likelihood(answer: Completion) -> float:
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        return sum(logprobs.token_logprobs or ())

    drawn = [
        await whole_completion(
            model, prompt="Once upon a", temperature=2, max_tokens=4, seed=seed, logprobs=0
        )
        for seed in (5, 6, 7)
    ]
    best = await whole_completion(
        model, prompt="Once upon a", temperature=2, max_tokens=4, seed=5, best_of=3, logprobs=0
    )
    assert len(best.choices) == 1
    assert best.usage is not None
    assert best.usage.completion_tokens == 12
    assert likelihood(best) >= max(map(likelihood, drawn)) - 0.5
