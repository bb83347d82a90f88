"""A corpus as token ids in one flat array for all sentences, with the start of each sentence.

All models of a comparison read the same ids, so row i is the same token in every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft.data.records import Example
from bertft.errors import OptionError

EXAMPLES_PER_CALL = 1000


@dataclass(frozen=True)
class TokenisedTexts:
    """The tokens of n sentences, one after the other; sentence i owns tokens starts[i] to starts[i + 1]."""

    ids: NDArray[np.int64]  # [tokens]
    types: NDArray[np.int64]  # [tokens], 0 for the first text and 1 for its pair
    special: NDArray[np.bool_]  # [tokens], True for what the tokeniser added: [CLS], [SEP], <s>
    starts: NDArray[np.int64]  # [n + 1]
    n_truncated: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each sentence, special ones included."""
        return np.diff(self.starts)


def pair_lead(tokenizer: Any) -> str:
    """Return what to write before the second text of a pair, so that its first word does not join the word before it.

    This is "" for tokenizers that put a token between the texts, such as [SEP], and a space for all others, such as
    those of GPT-2 and Qwen.
    """
    between = tokenizer.num_special_tokens_to_add(pair=True) - tokenizer.num_special_tokens_to_add(pair=False)
    return "" if between > 0 else " "


def tokenise(examples: Sequence[Example], tokenizer: Any, max_length: int) -> TokenisedTexts:
    """Tokenise texts and pairs; truncate those longer than `max_length` tokens, the longer part of a pair first.

    The texts of a pair are separated as the tokenizer does it, or by a space where it puts nothing between them.
    `tokenizer` is a Hugging Face tokenizer. Raises `OptionError` where `max_length` leaves no room in addition to the
    special tokens.
    """
    ids: list[list[int]] = []
    types: list[list[int]] = []
    special: list[list[int]] = []
    n_truncated = 0
    # The tokeniser takes a list of texts or a list of pairs, not a mixture.
    for paired, run in groupby(examples, key=lambda example: example.pair is not None):
        if max_length <= tokenizer.num_special_tokens_to_add(pair=paired):
            raise OptionError(
                f"max_length is {max_length}, but each {'pair' if paired else 'sentence'} has "
                f"{tokenizer.num_special_tokens_to_add(pair=paired)} special tokens; give a larger max_length"
            )
        run_examples = list(run)
        for first in range(0, len(run_examples), EXAMPLES_PER_CALL):
            part = run_examples[first : first + EXAMPLES_PER_CALL]
            encoded = _encode(tokenizer, part, max_length)
            ids += encoded["input_ids"]
            # Where the tokenizer gives no types, all types are 0, as in transformers.
            types += encoded.get("token_type_ids") or [[0] * len(tokens) for tokens in encoded["input_ids"]]
            special += encoded["special_tokens_mask"]
            # Only texts of exactly max_length tokens may have been truncated; their full lengths decide.
            full = [
                example for example, tokens in zip(part, encoded["input_ids"], strict=True) if len(tokens) == max_length
            ]
            if full:
                n_truncated += sum(len(tokens) > max_length for tokens in _encode(tokenizer, full, None)["input_ids"])
    starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids], dtype=np.int64)])
    return TokenisedTexts(
        ids=np.fromiter(chain.from_iterable(ids), dtype=np.int64),
        types=np.fromiter(chain.from_iterable(types), dtype=np.int64),
        special=np.fromiter(chain.from_iterable(special), dtype=np.bool_),
        starts=starts,
        n_truncated=n_truncated,
    )


def _encode(tokenizer: Any, examples: Sequence[Example], max_length: int | None) -> Any:
    texts = [example.text for example in examples]
    lead = "" if examples[0].pair is None else pair_lead(tokenizer)
    pairs = None if examples[0].pair is None else [f"{lead}{example.pair}" for example in examples]
    return tokenizer(
        texts,
        pairs,
        truncation="longest_first" if max_length is not None else False,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
