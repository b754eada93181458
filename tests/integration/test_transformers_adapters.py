"""LoRA adapters and templates of the transformers engine, over a small model of random weights."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ekiben.contract import EngineError, InvalidRequest, LoadFailed
from ekiben_transformers import template
from ekiben_transformers.engine import Transformers
from ekiben_transformers.model import TextModel
from ekiben_transformers.template import ChatTemplate
from ekiben_transformers.vocabulary import Vocabulary
from tests.smollm2_folder import smollm2_folder
from tests.transformers_engine import chat, complete, loaded, order

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # PEFT's releases follow those of transformers by weeks.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

NAMES = ("first", "second")
PROMPT = "The train to the mountains"


@pytest.fixture(scope="module")
def tokenizer(weights_home: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2_folder(weights_home))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model of two layers. Large weights, so that adapters and tokens make a difference."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    return {name: make_adapter(base, tmp_path_factory.mktemp(name), seed) for seed, name in enumerate(NAMES)}


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(10 + seed)
    config = LoraConfig(
        r=4 + seed, lora_alpha=16, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(folder))
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(
    base: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TextModel]:
    scratch = tmp_path_factory.mktemp("scratch")
    async with loaded(order(base, scratch, adapters=adapters, dtype="float32", context=256)) as model:
        yield model


def expected(base: Path, adapter: Path | None, ids: Sequence[int], tokenizer: Any) -> str:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    output = model.eval().generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
    )
    text: str = tokenizer.decode(output[0][len(ids) :], skip_special_tokens=True)
    return text


async def test_adapters_write_side_by_side(
    model: TextModel, base: Path, adapters: dict[str, Path], tokenizer: Any
) -> None:
    ids = tokenizer(PROMPT)["input_ids"]
    names = [None, *NAMES]
    texts = [expected(base, adapters.get(name or ""), ids, tokenizer) for name in names]
    assert len(set(texts)) == 3, "the adapters differ"
    body = {"prompt": ids, "max_tokens": 12, "ignore_eos": True}
    for name, text in zip(names, texts, strict=True):
        (answer,) = await complete(model, adapter=name, **body)
        assert answer["choices"][0]["text"] == text
    order_of_them = [*names, *reversed(names)]
    answers = await asyncio.gather(*(complete(model, adapter=name, **body) for name in order_of_them))
    written = [answer["choices"][0]["text"] for (answer,) in answers]
    assert written == [*texts, *reversed(texts)]


async def test_prompts_are_scored_with_the_adapter(model: TextModel) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1, "echo": True, "logprobs": 1}
    scores = [
        (await complete(model, adapter=name, **body))[0]["choices"][0]["logprobs"]["token_logprobs"][1]
        for name in (None, *NAMES)
    ]
    assert len(set(scores)) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "uses use_dora"),
        ({"bias": "all"}, "changes biases"),
        ({"peft_type": "IA3"}, "only LORA is served"),
        ({"target_modules": ["nothing_like_it"]}, "does not fit the model"),
    ],
)
async def test_adapters_that_cannot_be_served(
    base: Path, adapters: dict[str, Path], tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapters["first"], folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LoadFailed, match=reason):
        await Transformers().load(order(base, tmp_path, adapters={"bad": folder}, context=256))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", '{"auto_map": {"AutoConfig": "x.y"}}', "code of its own"),
        ("config.json", '{"architectures": ["BertModel"]}', "does not write text"),
        ("model.safetensors", "", "is not a safetensors file"),
        ("model.safetensors", None, "holds no weights"),
    ],
)
async def test_folders_that_are_refused(
    tmp_path: Path, base: Path, name: str, content: str | None, reason: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(LoadFailed, match=reason):
        Transformers().estimate_memory(order(folder, tmp_path))


async def test_characters_are_never_cut(model: TextModel, tokenizer: Any) -> None:
    text = "día \N{GRINNING FACE} 漢字 " * 3
    reader = Vocabulary(tokenizer, size=len(tokenizer)).reader([])
    pieces = [reader.add(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(pieces) + reader.finish() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    half = tokenizer("\N{GRINNING FACE}")["input_ids"][:1]
    assert reader.add(half[0]) == "" and reader.finish() == "\N{REPLACEMENT CHARACTER}"
    # A model of random weights writes pieces of characters all the time.
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 40,
        "temperature": 1,
        "seed": 3,
    }
    (whole,) = await chat(model, **body)
    chunks = await chat(model, **body, stream=True)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]


def render(source: str) -> str:
    return ChatTemplate(source, None, {}).render([{"role": "user", "content": "hi"}], [])


async def test_templates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert render("{% for message in messages %}{{ message.content }}{% endfor %}") == "hi"
    monkeypatch.setattr(template, "MAX_RENDER_S", 0.2)
    monkeypatch.setattr(template, "MAX_CHARACTERS", 1000)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(EngineError, match="took longer"):
        render(loop)
    with pytest.raises(EngineError, match="more than 1000 characters"):
        render("{% for a in range(99999) %}{{ messages }}{% endfor %}")
    with pytest.raises(LoadFailed, match="is none"):
        render("{% for %}")


@pytest.mark.parametrize(
    "source",
    ["{{ messages.__class__.__mro__ }}", "{{ raise_exception('no') }}", "{{ messages.append(1) }}"],
)
async def test_templates_are_sandboxed(source: str) -> None:
    with pytest.raises(InvalidRequest, match="does not take this conversation"):
        render(source)
