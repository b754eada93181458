"""Small encoders with random weights, made with the library: rerankers, a classifier, a CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

WORDS: Final = (
    "the a train leaves from platform three departures at nine boil rice for ten minutes when does it go "
    "what time is lunch box station noodles soup . , ? [Q] [D]"
)


def tokenizer() -> Any:
    """WordPiece over a few words and all letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    entries = dict.fromkeys([*special, *WORDS.split(), *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {word: index for index, word in enumerate(entries)}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=fast,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bert_config(**fields: Any) -> Any:
    return encoder_config("bert", max_position_embeddings=64, **fields)


def encoder_config(kind: str, **fields: Any) -> Any:
    """Of some class of models, by the class's name in its config."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=1.0,
        **fields,
    )


def classifier_folder(folder: Path, *, labels: tuple[str, ...], **config: Any) -> Path:
    """A text classifier; of one label, what a cross-encoder is made of."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(7)
    names = dict(enumerate(labels))
    configured = bert_config(
        id2label=names, label2id={label: index for index, label in names.items()}, **config
    )
    BertForSequenceClassification(configured).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def bert_folder(folder: Path) -> Path:
    import torch
    from transformers import BertModel

    torch.manual_seed(7)
    BertModel(bert_config()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def pooled_folder(folder: Path, *, kind: str, pooling: str) -> Path:
    """An embedder of some class of models."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoModel

    words = tokenizer()
    ends = {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id}
    config = encoder_config(
        kind, max_position_embeddings=80, type_vocab_size=2, pad_token_id=words.pad_token_id, **ends
    )
    torch.manual_seed(7)
    make: Any = AutoModel.from_config
    make(config).save_pretrained(folder / "bare")
    words.save_pretrained(folder / "bare")
    first = Transformer(str(folder / "bare"))
    modules: Any = [first, Pooling(first.get_embedding_dimension(), pooling_mode=pooling)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "pooled"))
    return folder / "pooled"


def colbert_folder(folder: Path) -> Path:
    """As the library saves models of late interaction."""
    import torch
    from sentence_transformers import MultiVectorEncoder

    bert_folder(folder / "bert")
    torch.manual_seed(7)
    model = MultiVectorEncoder(
        str(folder / "bert"), device="cpu", prompts={"query": "[Q] ", "document": "[D] "}
    )
    model.save_pretrained(str(folder / "colbert"))
    return folder / "colbert"


def clip_folder(folder: Path) -> Path:
    """A model that has texts and pictures in one space."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = tokenizer()
    ends = {"eos_token_id": words.sep_token_id, "bos_token_id": words.cls_token_id, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(words), "max_position_embeddings": 64},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(7)
    CLIPModel(config).save_pretrained(folder / "transformers")
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    make: Any = CLIPProcessor
    make(pictures, words).save_pretrained(folder / "transformers")
    SentenceTransformer(str(folder / "transformers"), device="cpu").save_pretrained(str(folder / "clip"))
    return folder / "clip"


def prompted_folder(folder: Path) -> Path:
    """An embedder with prompts, whose tokens do not count for its vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    first = Transformer(str(bert_folder(folder / "bert")))
    modules = [first, Pooling(32, pooling_mode="mean", include_prompt=False)]
    prompts = {"query": "what is the ", "passage": "it leaves from ", "odd": "soup "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="odd")
    model.save_pretrained(str(folder / "prompted"))
    return folder / "prompted"
