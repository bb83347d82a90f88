"""The token that pads the shorter rows of a batch, also for models that were published without one.

Padding lies under the attention mask, so that any token can serve. Heads that classify a sequence by its last token
look for the last one that is not padding, so that the model and the batch must agree on the token, and no text may end
with it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from bertft.checkpoints.settings import padding_id, text_settings, vocabulary_size


def padding_token(tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """Return the id of the padding token: the model's own, the tokenizer's, or that of another special token.

    Without any special token it is the last of the vocabulary, the rarest.
    """
    size = vocabulary_size(config) or len(tokenizer)
    for number in _candidates(tokenizer, config):
        # Some vocabularies are longer than the embeddings.
        if isinstance(number, int) and 0 <= number < size and tokenizer.convert_ids_to_tokens(number) is not None:
            return number
    return min(size, len(tokenizer)) - 1


def _candidates(tokenizer: PreTrainedTokenizerBase, config: Any) -> Iterator[Any]:
    yield padding_id(config)
    yield tokenizer.pad_token_id
    # Tokenizers put none of these at the end of a text, or all of them at the end of every text.
    yield from (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    yield from tokenizer.all_special_ids


def padding_tokenizer(tokenizer: PreTrainedTokenizerBase, model: Any) -> PreTrainedTokenizerBase:
    """Return a tokenizer that pads batches for a model, on the right: the given one if it does so, else a copy."""
    number = padding_token(tokenizer, model.config)
    if tokenizer.pad_token_id == number and tokenizer.padding_side == "right":
        return tokenizer
    padding: PreTrainedTokenizerBase = copy.deepcopy(tokenizer)
    padding.pad_token = padding.convert_ids_to_tokens(number)
    padding.padding_side = "right"
    return padding


def name_padding(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the padding token to the config of a model that names none, for heads that classify by the last token."""
    number = padding_token(tokenizer, model.config)
    if padding_id(model.config) != number:
        for config in (text_settings(model.config), model.config):
            config.pad_token_id = number
