"""What a load and a first request import of the libraries, at once and ahead of both.

Imported in the process from which replicas are forked: nothing here starts a thread or touches a GPU.
"""

from __future__ import annotations

import llguidance
import llguidance.hf
import llguidance.numpy
import torch
import transformers.generation.continuous_batching.continuous_api
import transformers.models.gemma3.modeling_gemma3
import transformers.models.llama.modeling_llama
import transformers.models.mistral.modeling_mistral
import transformers.models.qwen2.modeling_qwen2
import transformers.models.qwen3.modeling_qwen3
import transformers.utils.chat_template_utils
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "llguidance", "torch", "transformers"]
