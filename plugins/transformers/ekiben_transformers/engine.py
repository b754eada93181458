"""transformers as an engine: judging a folder, estimating it, and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ekiben.contract import Ability, Family, LoadedModel, LoadRequest, MemoryEstimate
from ekiben.contract.threads import WorkerThread
from ekiben_transformers import memory
from ekiben_transformers.dtype import choose_dtype
from ekiben_transformers.folder import ModelFolder
from ekiben_transformers.hearing import memory as hearing_memory
from ekiben_transformers.hearing.folder import HearingFolder
from ekiben_transformers.speech import memory as speaking_memory
from ekiben_transformers.speech.folder import SpeakingFolder
from ekiben_transformers.vision import memory as seeing_memory
from ekiben_transformers.vision.folder import SeeingFolder

if TYPE_CHECKING:
    from ekiben_transformers.prompter import Prompter
    from ekiben_transformers.template import ChatTemplate


class Transformers:
    """The Engine."""

    def estimate_memory(self, request: LoadRequest) -> MemoryEstimate:
        folder = _folder(request)
        folder.check()
        if isinstance(folder, SeeingFolder):
            return seeing_memory.estimate(folder, request, dtype=choose_dtype(folder, request))
        if isinstance(folder, HearingFolder):
            return hearing_memory.estimate(folder, request, dtype=choose_dtype(folder, request))
        if isinstance(folder, SpeakingFolder):
            return speaking_memory.estimate(folder, request)
        return memory.estimate(folder, request, dtype=choose_dtype(folder, request))

    async def load(self, request: LoadRequest) -> LoadedModel:
        folder = _folder(request)
        folder.check()
        loader = WorkerThread("load")
        try:
            return await loader.run(_open, folder, request)
        finally:
            loader.close()


def _folder(request: LoadRequest) -> ModelFolder:
    if request.model.family is Family.VISION:
        return SeeingFolder(request.weights)
    if Ability.SPEAK in request.model.abilities:
        return SpeakingFolder(request.weights)
    if request.model.family is Family.AUDIO:
        return HearingFolder(request.weights)
    return ModelFolder(request.weights)


def _open(folder: ModelFolder, request: LoadRequest) -> LoadedModel:
    """On a thread, since the imports alone take seconds."""
    if isinstance(folder, SeeingFolder):
        from ekiben_transformers.vision.model import open_seeing

        return open_seeing(folder, request, dtype=choose_dtype(folder, request))
    if isinstance(folder, HearingFolder):
        from ekiben_transformers.hearing.model import open_hearing

        return open_hearing(folder, request, dtype=choose_dtype(folder, request))
    if isinstance(folder, SpeakingFolder):
        from ekiben_transformers.speech.model import open_speaking

        return open_speaking(folder, request)
    from ekiben_transformers.batch import Batch
    from ekiben_transformers.loading import open_model, open_tokenizer
    from ekiben_transformers.model import TextModel

    tokenizer = open_tokenizer(folder)
    request.report(0.2)
    model = open_model(folder, request, dtype=choose_dtype(folder, request))
    request.report(0.8)
    adapters: Any = None
    if request.adapters:
        from ekiben_transformers.lora import Adapters

        adapters = Adapters(model, request.adapters)
    options = request.options
    batch = Batch(
        model,
        context=memory.context_tokens(folder.config(), options),
        parallel=int(options["parallel"]),
        step_tokens=memory.step_tokens(options, device=request.device.kind),
        shares_prefixes=not request.adapters,
        before_step=adapters.arrange if adapters is not None else None,
    )
    request.report(1.0)
    return TextModel(model, batch, _prompter(folder, request, tokenizer, model), adapters=adapters)


def _prompter(folder: ModelFolder, request: LoadRequest, tokenizer: Any, model: Any) -> Prompter:
    from ekiben_transformers.formats import call_format, thinks
    from ekiben_transformers.grammar import Grammars
    from ekiben_transformers.prompter import Prompter
    from ekiben_transformers.vocabulary import Vocabulary

    template = _template(request.options, tokenizer)
    source = template.source if template is not None else ""
    size = int(model.get_output_embeddings().out_features)
    ends = _ends(model, tokenizer)
    return Prompter(
        vocabulary=Vocabulary(tokenizer, size=size),
        grammars=Grammars(tokenizer, size=size, ends=sorted(ends)),
        template=template,
        calls=call_format(source, request.options.get("tool_format")),
        reasons=bool(request.options.get("reasoning", thinks(source))),
        ends=ends,
        defaults=_defaults(folder),
        context=memory.context_tokens(folder.config(), request.options),
    )


def _template(options: Mapping[str, Any], tokenizer: Any) -> ChatTemplate | None:
    """The spec's, or the model's own, which may be several."""
    from ekiben_transformers.template import ChatTemplate

    own = tokenizer.chat_template
    tokens = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    if options.get("chat_template"):
        return ChatTemplate(str(options["chat_template"]), None, tokens)
    if isinstance(own, dict):
        first = own.get("default") or next(iter(own.values()), None)
        return ChatTemplate(first, own.get("tool_use"), tokens) if first else None
    return ChatTemplate(own, None, tokens) if own else None


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the model's, and the tokenizer's, which may know of another one."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)


def _defaults(folder: ModelFolder) -> dict[str, Any]:
    """What the model's authors recommend, where they recommend to sample."""
    config = folder.json("generation_config.json")
    known = ["repetition_penalty"]
    if config.get("do_sample"):
        known += ["temperature", "top_p", "top_k", "min_p"]
    return {name: config[name] for name in known if config.get(name) is not None}
