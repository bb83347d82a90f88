"""Tiny models, tokenizers and records for tests: random weights from a seed, small enough to run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""The special tokens of `tokenizer`, with the ids 0 to 3."""


def shape(vocab_size: int, **changes: Any) -> dict[str, Any]:
    """Return the fields of a config with 3 blocks of dimension 32; the feed-forward dimension occurs nowhere else."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        **changes,
    }


FAMILIES: dict[str, Callable[..., transformers.PreTrainedConfig]] = {
    "bert": lambda size, **more: BertConfig(**shape(size, **more)),
    "roberta": lambda size, **more: transformers.RobertaConfig(**shape(size, max_position_embeddings=64, **more)),
    "electra": lambda size, **more: transformers.ElectraConfig(**shape(size, embedding_size=16, **more)),
    "distilbert": lambda size, **more: transformers.DistilBertConfig(
        vocab_size=size, dim=32, n_layers=3, n_heads=2, hidden_dim=37, **more
    ),
    "deberta-v2": lambda size, **more: transformers.DebertaV2Config(
        **shape(size, relative_attention=True, pos_att_type=["p2c", "c2p"], **more)
    ),
    "modernbert": lambda size, **more: transformers.ModernBertConfig(**shape(size, pad_token_id=0, **more)),
    "gpt2": lambda size, **more: transformers.GPT2Config(vocab_size=size, n_embd=32, n_layer=3, n_head=2, **more),
    "llama": lambda size, **more: transformers.LlamaConfig(**shape(size, **more)),
}
"""Functions from the size of a vocabulary, and further fields, to the config of an architecture."""


def build(config: transformers.PreTrainedConfig, head: str = "Model", seed: int = 0) -> PreTrainedModel:
    """Return a model with random weights in evaluation mode; torch's own generator does not advance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = getattr(transformers, type(config).__name__.replace("Config", head))(config)
    return model.eval()


def bert(vocab_size: int, blocks: int = 2, length: int = 32, seed: int = 0) -> BertModel:
    """Return a BERT of dimension 16 that takes `length` tokens."""
    sizes = shape(vocab_size, hidden_size=16, num_hidden_layers=blocks, intermediate_size=24)
    model = build(BertConfig(**sizes, max_position_embeddings=length), seed=seed)
    assert isinstance(model, BertModel)
    return model


def tokenizer(
    words: Iterable[str],
    *,
    subwords: bool = False,
    lowercase: bool | None = None,
    special: tuple[str, ...] = SPECIAL,
    **options: Any,
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with `special` and then `words` as its vocabulary.

    subwords: split words as WordPiece does, where `##s` continues a word.  lowercase: normalise and split text as BERT
    does, cased or not; None splits at white space and punctuation only.  options: of `PreTrainedTokenizerFast`.
    """
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *words]))}
    inner = Tokenizer((models.WordPiece if subwords else models.WordLevel)(vocabulary, unk_token="[UNK]"))
    if lowercase is None:
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, **options)


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Save a model with its tokenizer to a folder, and return the folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


MNLI = {"pairID": "7", "sentence1": "It pours.", "sentence2": "It rains.", "gold_label": "entailment"}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Rain",
            "paragraphs": [
                {
                    "context": "Rain falls from clouds.",
                    "qas": [
                        {"id": "q1", "question": "What falls?", "answers": [{"text": "Rain", "answer_start": 0}]},
                        {"id": "q2", "question": "From what?", "answers": [{"text": "clouds", "answer_start": 16}]},
                    ],
                }
            ],
        }
    ],
}
