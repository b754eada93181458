"""LoRA adapters of one model, several of them at work in one batch.

The library packs the tokens of all requests into one row, and PEFT can only give each row an adapter. So
the model's own layers run with PEFT's switched off, and to the tokens of a request what its adapter adds is
added here: `B(A(x)) * scaling`, as PEFT does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer

from ekiben.contract import LoadFailed
from ekiben_transformers.folder import ModelFolder

Span = tuple[str, int, int]
"""An adapter, and from which token of the row to which it applies."""


class Adapters:
    """The adapters that a loaded model has. For the thread that computes."""

    def __init__(self, model: Any, adapters: Mapping[str, Path]) -> None:
        """Puts the adapters' weights beside the model's. Raises LoadFailed."""
        self._spans: Sequence[Span] = ()
        self._names = {name: f"adapter{index}" for index, name in enumerate(adapters)}
        peft: Any = None
        for name, path in adapters.items():
            _check(name, path)
            try:
                if peft is None:
                    peft = PeftModel.from_pretrained(model, str(path), adapter_name=self._names[name])
                else:
                    peft.load_adapter(str(path), adapter_name=self._names[name])
            except Exception as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise LoadFailed(f"the adapter {name!r} does not fit the model: {reason}") from error
        peft.base_model.disable_adapter_layers()
        modules = model.modules()
        for module in modules:
            if isinstance(module, LoraLayer):
                hooked: Any = module
                hooked.register_forward_hook(self._add)

    def arrange(self, rows: Sequence[tuple[str | None, int]]) -> None:
        """The next step: for each request in the row its adapter and how many tokens it has there."""
        spans: list[Span] = []
        begin = 0
        for adapter, length in rows:
            if adapter is not None:
                spans.append((self._names[adapter], begin, begin + length))
            begin += length
        self._spans = spans

    @contextmanager
    def alone(self, adapter: str | None, length: int) -> Iterator[None]:
        """For a computation besides the batch."""
        before = self._spans
        self.arrange([(adapter, length)])
        try:
            yield
        finally:
            self._spans = before

    def _add(self, layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if not self._spans:
            return output
        output = output.clone()
        for name, begin, end in self._spans:
            if name in layer.lora_A:
                narrow = layer.lora_A[name]
                tokens = inputs[0][:, begin:end].to(narrow.weight.dtype)
                added = layer.lora_B[name](narrow(tokens)) * layer.scaling[name]
                output[:, begin:end] += added.to(output.dtype)
        return output


def _check(name: str, path: Path) -> None:
    """Only plain LoRA in safetensors: no pickles, no code, nothing that needs more than is added here."""
    folder = ModelFolder(path)
    config = folder.json("adapter_config.json")
    if not config or not (path / "adapter_model.safetensors").exists():
        raise LoadFailed(
            f"the adapter {name!r} is not a folder with adapter_config.json and adapter_model.safetensors"
        )
    if config.get("peft_type") != "LORA":
        raise LoadFailed(f"the adapter {name!r} is of type {config.get('peft_type')!r}: only LORA is served")
    for field in ("use_dora", "modules_to_save", "trainable_token_indices", "alora_invocation_tokens"):
        if config.get(field):
            raise LoadFailed(f"the adapter {name!r} uses {field}, which cannot be served beside others")
    if config.get("bias", "none") != "none":
        raise LoadFailed(f"the adapter {name!r} changes biases, which cannot be served beside others")
    folder.tensors()
    PeftConfig.from_pretrained(str(path))
