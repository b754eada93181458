"""What the vllm engine makes of specs, requests and vLLM's answers, without vLLM."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ekiben.contract import (
    Device,
    EngineError,
    InvalidRequest,
    LoadFailed,
    LoadRequest,
    ModelSpec,
    UnsupportedParameter,
)
from ekiben.contract.testing import load_request
from ekiben.plugins.discovery import discover
from ekiben_vllm import answers, failures, formats, options
from ekiben_vllm.engine import Vllm
from ekiben_vllm.folder import ModelFolder
from ekiben_vllm.translation import chat_fields, completion_fields

USER = {"role": "user", "content": "hi"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
NOTHING = formats.knowledge("")
CLOCK = {"type": "function", "function": {"name": "clock", "strict": False}}
CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
    "vocab_size": 1000,
}


def chat(**fields: Any) -> dict[str, Any]:
    return chat_fields({"model": "m", "messages": [USER]} | fields, known=NOTHING)


def completion(**fields: Any) -> dict[str, Any]:
    return completion_fields({"model": "m", "prompt": "hi"} | fields)


def write_safetensors(path: Path, size_bytes: int) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(size_bytes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(path / "model.safetensors", 1000)
    return path


def order(folder: Path, *, device: str = "cpu", more: int = 0, **given: Any) -> LoadRequest:
    section = discover().engines()["vllm"].manifest.engine
    assert section is not None
    variant = {"format": "safetensors", "engine": "vllm", "source": {"kind": "local", "path": str(folder)}}
    spec = ModelSpec.model_validate(
        {"name": "m", "family": "llm", "abilities": ["chat"], "variants": [variant]}
    )
    base = load_request(spec, folder, scratch=folder, options=section.defaults() | given)
    return LoadRequest(
        model=base.model,
        variant=base.variant,
        weights=base.weights,
        options=base.options,
        device=Device(device),
        threads=base.threads,
        scratch=base.scratch,
        report=base.report,
        more_devices=[Device(device, index + 1) for index in range(more)],
    )


def test_what_vllm_honours_is_passed_on() -> None:
    wanted = {"temperature": 0.5, "stop": ["x"], "logit_bias": {"5": -100}, "top_k": 7, "seed": 3, "n": 2}
    assert wanted.items() <= chat(**wanted).items()
    assert wanted.items() <= completion(**wanted).items()
    assert chat(max_completion_tokens=5, logprobs=True, top_logprobs=2)["max_completion_tokens"] == 5
    assert completion(echo=True, suffix="y")["suffix"] == "y"


@pytest.mark.parametrize(
    "name",
    [
        *("chat_template", "functions", "audio", "web_search_options", "prediction", "kv_transfer_params"),
        *("mm_processor_kwargs", "vllm_xargs", "return_token_ids", "prompt_logprobs", "invented"),
    ],
)
def test_what_nobody_honours_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(**{name: {"a": 1}})
    assert refused.value.param == name
    with pytest.raises(UnsupportedParameter):
        completion(**{name: {"a": 1}})


def test_values_that_ask_for_nothing_are_accepted() -> None:
    fields = chat(user="u", store=False, service_tier="auto", metadata={"a": "b"}, logprobs=None)
    assert fields.keys() == {"messages", "stream"}
    assert completion(best_of=1).keys() == {"prompt", "stream"}


def test_best_of_beyond_n_is_refused() -> None:
    with pytest.raises(UnsupportedParameter, match="best_of"):
        completion(best_of=2)
    assert completion(best_of=2, n=2)["n"] == 2


def test_several_answers_without_chance_are_drawn_from_one_token() -> None:
    fields = chat(n=2, temperature=0)
    assert (fields["n"], fields["temperature"], fields["top_k"]) == (2, 1.0, 1)
    assert chat(n=1, temperature=0)["temperature"] == 0
    assert "top_k" not in completion(n=2, temperature=0.1)


def test_an_effort_is_for_models_that_know_it() -> None:
    with pytest.raises(UnsupportedParameter, match="reasoning_effort"):
        chat(reasoning_effort="low")
    body = {"messages": [USER], "reasoning_effort": "low"}
    known = formats.knowledge("{{ reasoning_effort }}")
    assert chat_fields(body, known=known)["reasoning_effort"] == "low"


def test_developers_are_the_system_of_models_that_know_none() -> None:
    told = [{"role": "developer", "content": "be brief"}, USER]
    assert [message["role"] for message in chat(messages=told)["messages"]] == ["system", "user"]
    known = formats.knowledge("{% if role == 'developer' %}")
    assert chat_fields({"messages": told}, known=known)["messages"] == told


def test_templates_of_requests_are_refused_in_every_disguise() -> None:
    with pytest.raises(UnsupportedParameter):
        chat(chat_template_kwargs={"chat_template": "{{ 1 }}"})
    assert chat(chat_template_kwargs={"enable_thinking": False})


def test_calls_that_must_be_made_follow_their_schema() -> None:
    fields = chat(tools=[WEATHER, CLOCK], tool_choice="required")
    assert fields["tool_choice"] == "required"
    assert [tool["function"]["strict"] for tool in fields["tools"]] == [True, False]
    named = {"type": "function", "function": {"name": "clock"}}
    fields = chat(tools=[WEATHER, CLOCK], tool_choice=named, parallel_tool_calls=False)
    assert fields["tool_choice"] == named
    assert len(fields["tools"]) == 2
    assert fields["parallel_tool_calls"] is False
    assert "strict" not in chat(tools=[WEATHER])["tools"][0]["function"]


def test_tools_that_the_template_does_not_know_are_refused_unless_they_must_be_called() -> None:
    body = {"model": "m", "messages": [USER], "tools": [WEATHER]}
    known = formats.knowledge("{{ messages }}")
    with pytest.raises(UnsupportedParameter) as caught:
        chat_fields(body, known=known)
    assert caught.value.param == "tools"
    for choice in ("required", "none"):
        assert chat_fields(body | {"tool_choice": choice}, known=known)["tool_choice"] == choice
    assert chat_fields(body, known=formats.knowledge("{{ tools }}"))["tools"] == [WEATHER]


def test_allowed_tools_are_the_only_ones() -> None:
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]}
    fields = chat(tools=[WEATHER, CLOCK], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert fields["tools"] == [WEATHER]
    assert fields["tool_choice"] == "auto"
    allowed["mode"] = "required"
    fields = chat(tools=[WEATHER, CLOCK], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert fields["tool_choice"] == "required"


def test_nothing_is_fetched_from_addresses() -> None:
    for url in ("http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", ""):
        part = {"type": "image_url", "image_url": {"url": url}}
        with pytest.raises(InvalidRequest) as refused:
            chat(messages=[{"role": "user", "content": [part]}])
        assert refused.value.param == "messages.0.content.0.image_url.url"
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}])
    with pytest.raises(UnsupportedParameter):
        chat(messages=[{"role": "user", "content": [{"type": "file", "file": {}}]}])


def test_grammars_are_bounded() -> None:
    schema = {"enum": [str(number) for number in range(5000)]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(InvalidRequest, match="alternatives"):
        chat(response_format=wanted)
    wrong: list[Any] = [
        {"grammar": "x"},
        {"regex": "a" * 1000},
        {"regex": "a", "json": {}},
        {"choice": []},
        "x",
    ]
    for given in wrong:
        with pytest.raises(InvalidRequest):
            chat(structured_outputs=given)
    assert chat(structured_outputs={"regex": "[ab]+"})["structured_outputs"] == {"regex": "[ab]+"}


def test_the_usage_of_a_stream_is_always_asked_for() -> None:
    fields = chat(stream=True, stream_options={"include_obfuscation": False})
    assert fields["stream_options"] == {"include_usage": True}


def test_whole_chats_are_openais() -> None:
    raw = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "inner",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "", "reasoning": "so", "refusal": None}
                    | {"annotations": None, "audio": None, "function_call": None}
                    | {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
                    "logprobs": None,
                    "finish_reason": "stop",
                    "stop_reason": 7,
                    "token_ids": None,
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            | {"prompt_tokens_details": {"cached_tokens": 1, "multimodal_tokens": None}},
            "kv_transfer_params": None,
            "prompt_token_ids": None,
        }
    )
    answer = answers.chat_answer(raw, model="outer")
    value = ChatCompletion.model_validate_json(answer, strict=True)
    assert (value.model, value.choices[0].message.content) == ("outer", None)
    plain = json.loads(answer)
    assert plain["choices"][0].keys() == {"index", "message", "logprobs", "finish_reason"}
    assert plain["choices"][0]["message"].keys() == {
        *("role", "content", "refusal", "reasoning_content", "tool_calls")
    }
    assert plain["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == ""
    assert plain["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert "kv_transfer_params" not in plain


def part(**fields: Any) -> str:
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "inner"}
    return json.dumps(base | fields)


def test_parts_of_a_chat_are_openais() -> None:
    stream = answers.Stream("chat", model="m", with_usage=True)
    choice = {"index": 0, "delta": {"reasoning": "hm"}, "logprobs": None, "finish_reason": None}
    written = stream.write(part(choices=[choice | {"token_ids": None}], prompt_token_ids=None))
    assert written is not None
    assert ChatCompletionChunk.model_validate_json(written, strict=True).usage is None
    plain = json.loads(written)
    assert plain["usage"] is None
    assert plain["choices"][0]["delta"] == {"reasoning_content": "hm"}
    assert "prompt_token_ids" not in plain
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    last = stream.write(part(choices=[], usage=usage))
    assert stream.ended
    assert last is not None
    assert json.loads(last)["usage"]["total_tokens"] == 2


def test_the_usage_is_for_those_who_ask_for_it() -> None:
    stream = answers.Stream("text", model="m", with_usage=False)
    written = stream.write(part(object="text_completion", choices=[{"index": 0, "text": "a"}]))
    assert written is not None
    assert "usage" not in json.loads(written)
    plain = json.loads(written)  # whose parts have no reason to finish, until the last one has
    plain["choices"][0]["finish_reason"] = "stop"
    Completion.model_validate(plain, strict=True)
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert stream.write(part(object="text_completion", choices=[], usage=usage)) is None


def test_errors_are_told_in_our_words() -> None:
    message = "This model's maximum context length is 8 tokens. (parameter=input_tokens, value=9)"
    error = failures.told({"message": message, "param": "input_tokens", "code": 400}, {"messages": []})
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.error_code) == ("messages", "context_length_exceeded")
    assert error.message == "this model's maximum context length is 8 tokens"
    error = failures.told({"message": "Bad top_k", "param": "top_k", "code": 400}, {})
    assert isinstance(error, InvalidRequest)
    assert error.param == "top_k"
    assert isinstance(failures.told({"message": "boom", "code": 500}, {}), EngineError)


def test_a_folder_is_measured_by_its_headers(folder: Path) -> None:
    write_safetensors(folder / "model-2.safetensors", 500)
    estimate = Vllm().estimate_memory(order(folder))
    assert estimate.weights_bytes == 1500
    tokens = 128 * 17  # 2048 and a block more
    of_cache = 2 * 2 * 2 * 16 * 2 * tokens * 8
    larger = Vllm().estimate_memory(order(folder, kv_cache_mb=-(-of_cache // 2**20) + 64))
    assert 60 * 2**20 < larger.working_bytes - estimate.working_bytes < 66 * 2**20


def test_a_model_that_is_spread_takes_a_part_of_each_device(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", 4000)
    alone = Vllm().estimate_memory(order(folder, device="cuda"))
    both = Vllm().estimate_memory(order(folder, device="cuda", more=1, tensor_parallel_size=2))
    assert (alone.weights_bytes, both.weights_bytes) == (4000, 2000)
    assert both.working_bytes < alone.working_bytes
    assert both.host_bytes > alone.host_bytes


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"max_model_len": 4096}, "max_model_len"),
        ({"kv_cache_mb": 16, "kv_cache_dtype": "auto", "max_model_len": 2048, "big": True}, "kv_cache_mb"),
        ({"tensor_parallel_size": 3}, "attention heads"),
        ({"pipeline_parallel_size": 4}, "layers"),
        ({"tensor_parallel_size": 2}, "several GPUs"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"limit_mm_per_prompt": {"smell": 1}}, "smell"),
        ({"limit_mm_per_prompt": {"image": -1}}, "image"),
    ],
)
def test_options_that_cannot_be_are_refused_beforehand(
    folder: Path, given: dict[str, Any], reason: str
) -> None:
    if given.pop("big", False):
        (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 200}))
    with pytest.raises(LoadFailed, match=reason):
        Vllm().estimate_memory(order(folder, **given))


async def test_devices_must_be_as_many_as_asked_for(folder: Path) -> None:
    with pytest.raises(LoadFailed, match="ask for 2 devices, there are 1"):
        await Vllm().load(order(folder, device="cuda", tensor_parallel_size=2))


def test_folders_that_cannot_be_or_must_not_be_loaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="not a folder"):
        ModelFolder(tmp_path / "none")
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(LoadFailed, match="not a safetensors file"):
        ModelFolder(folder).weights_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(LoadFailed, match="no weights"):
        ModelFolder(folder).weights_bytes()
    (folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": {"AutoModel": "x.py"}}))
    with pytest.raises(LoadFailed, match="code of its own"):
        ModelFolder(folder)


def test_the_options_of_a_spec_become_vllms_arguments(folder: Path) -> None:
    request = order(folder, quantization="awq", dtype="float16", max_num_seqs=4)
    arguments = options.engine_arguments(ModelFolder(folder), request)
    assert arguments["quantization"] == "awq"
    assert arguments["max_model_len"] == 2048
    assert arguments["kv_cache_memory_bytes"] == 4 * 128 * 17 * 2 * 2 * 2 * 16 * 2
    assert arguments["enforce_eager"] is True
    assert arguments["trust_remote_code"] is False
    assert arguments["enable_sleep_mode"] is False
    on_gpu = options.engine_arguments(ModelFolder(folder), order(folder, device="cuda"))
    assert (on_gpu["enforce_eager"], on_gpu["enable_sleep_mode"]) == (False, True)


@pytest.mark.parametrize(("rank", "taken"), [(4, 8), (8, 8), (100, 128), (600, None)])
def test_adapters_are_given_room(folder: Path, tmp_path: Path, rank: int, taken: int | None) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": rank}))
    write_safetensors(adapter / "adapter_model.safetensors", 8)
    base = order(folder)
    request = LoadRequest(
        **{name: getattr(base, name) for name in base.__dataclass_fields__ if name != "adapters"},
        adapters={"a": adapter},
    )
    if taken is None:
        with pytest.raises(LoadFailed, match="rank 600"):
            options.engine_arguments(ModelFolder(folder), request)
    else:
        arguments = options.engine_arguments(ModelFolder(folder), request)
        assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, taken)


def test_formats_are_found_from_templates() -> None:
    assert formats.tool_parser("{{ messages }}") == "hermes"
    assert formats.tool_parser("… [TOOL_CALLS] …") == "mistral"
    assert formats.reasoning_parser("{{ messages }}") is None
    assert formats.reasoning_parser("{% if enable_thinking %}<think>") == "qwen3"
