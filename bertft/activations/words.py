"""Words and the subwords a tokenizer makes of them, aligned by the tokenizer's own character offsets.

A sentence is given to the tokenizer as running text, its words joined by single spaces, so the model reads the subwords
it was trained on; each subword belongs to the word in which it ends.  A space belongs to the word after it, as in the
subwords of byte-level and unigram tokenizers.

Probes of trees need every word.  A sentence is dropped, and counted, where it is longer than the model takes or where
the tokenizer makes no subword of one of its words (control characters, say); nothing is cut or filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.activations.encode import EXAMPLES_PER_CALL, TokenisedTexts
from bertft.activations.sampling import Draw
from bertft.data.records import Example
from bertft.errors import CheckpointError, DataError, OptionError

POOLINGS = ("mean", "first", "last")


@dataclass(frozen=True)
class WordCounts:
    """What became of the given sentences and words; subwords, split and unknown words are those of kept sentences."""

    sentences: int
    words: int
    too_long_sentences: int
    """Dropped, for they have more tokens than the model takes."""
    incomplete_sentences: int
    """Dropped because the tokenizer makes no subword of some word; sentences that are also too long are not counted."""
    empty_words: int
    """Words of which the tokenizer makes no subword, in all sentences."""
    kept_sentences: int
    kept_words: int
    subwords: int
    most_subwords: int
    """The subwords of the word that has the most."""
    split_words: int
    """Words of more than one subword."""
    unknown_words: int
    """Words of which a subword is the tokenizer's unknown token."""

    def notes(self, max_length: int) -> tuple[str, ...]:
        """What a reader of the numbers should know, as sentences; none where every word was known and kept."""
        notes = []
        if self.too_long_sentences:
            notes.append(
                f"{self.too_long_sentences} of {self.sentences} sentences have more than {max_length} tokens "
                "and were dropped"
            )
        if self.incomplete_sentences:
            notes.append(
                f"{self.incomplete_sentences} of {self.sentences} sentences were dropped, for the tokenizer makes "
                "nothing of a word in them"
            )
        if self.unknown_words:
            notes.append(f"{self.unknown_words} of {self.kept_words} words are unknown to the tokenizer")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class TokenisedWords:
    """The tokens of n sentences and the words they belong to; the words of kept sentences are numbered throughout."""

    texts: TokenisedTexts
    word_of_token: NDArray[np.int64]  # [tokens], -1 for special tokens and in dropped sentences
    subwords: NDArray[np.int64]  # [kept words], at least 1
    starts: NDArray[np.int64]  # [n + 1], sentence i owns words starts[i] to starts[i + 1]; none where it was dropped
    counts: WordCounts

    def draw(self, pooling: str) -> Draw:
        """The tokens from which word vectors are made: all of a word, or its first or last alone."""
        words = self.word_of_token
        inside = words >= 0
        if pooling == "first":
            inside &= words != np.concatenate([[-1], words[:-1]])
        elif pooling == "last":
            inside &= words != np.concatenate([words[1:], [-1]])
        positions = np.flatnonzero(inside)
        return Draw(positions, np.searchsorted(self.texts.starts, positions, side="right") - 1)


@dataclass(frozen=True, eq=False)
class Alignment:
    """The tokens of n sentences, uncut, and the word of each, the words of all sentences numbered throughout."""

    tokens: TokenisedTexts
    words: NDArray[np.int64]  # [tokens], -1 for special tokens
    subwords: NDArray[np.int64]  # [words], how many each word became
    first_word: NDArray[np.int64]  # [n + 1], sentence i has words first_word[i] to first_word[i + 1]


def align(sentences: Sequence[Sequence[str]], tokenizer: Any) -> Alignment:
    """Tokenise sentences of words whole and say which word each token belongs to; raises as `tokenise_words` does."""
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"{type(tokenizer).__name__}: does not say from which characters a token was made, so tokens cannot be "
            "given to words; convert it to a fast tokenizer (a tokenizer.json)"
        )
    texts = [_running_text(words, f"sentences[{index}]") for index, words in enumerate(sentences)]
    if not texts:
        raise DataError("no sentences; give at least one")
    tokens, ends = _encoded(texts, tokenizer)

    # All sentences joined by spaces make one text, in which every word and every subword has its end.
    first_word = np.concatenate([[0], np.cumsum([len(words) for words in sentences])])
    word_ends = np.cumsum([len(word) + 1 for words in sentences for word in words]) - 1
    text_starts = np.concatenate([[0], word_ends + 1])[first_word[:-1]]
    words = np.searchsorted(word_ends, np.repeat(text_starts, tokens.lengths) + ends)
    words[tokens.special] = -1
    own = words[~tokens.special]
    if (np.diff(own) < 0).any():
        raise CheckpointError(
            f"{type(tokenizer).__name__}: the offsets of its tokens run backwards, so tokens cannot be given to words"
        )
    return Alignment(tokens, words, np.bincount(own, minlength=len(word_ends)), first_word)


def tokenise_words(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> TokenisedWords:
    """Tokenise sentences of words, keeping those of at most `max_length` tokens, special ones included.

    Raises `CheckpointError` for a tokenizer without offsets, `DataError` for a sentence without words or a blank word.
    """
    aligned = align(sentences, tokenizer)
    tokens, words, subwords = aligned.tokens, aligned.words, aligned.subwords
    counts, first_word = np.diff(aligned.first_word), aligned.first_word[:-1]
    too_long = tokens.lengths > max_length
    complete = np.logical_and.reduceat(subwords > 0, first_word)
    kept = complete & ~too_long
    kept_word = np.repeat(kept, counts)
    number = np.where(kept_word, np.cumsum(kept_word) - 1, -1)
    word_of_token = np.where(words >= 0, number[words], -1)
    subwords_kept = subwords[kept_word]
    unknown = (tokens.ids == tokenizer.unk_token_id) & (word_of_token >= 0)
    return TokenisedWords(
        texts=tokens,
        word_of_token=word_of_token,
        subwords=subwords_kept,
        starts=np.concatenate([[0], np.cumsum(np.where(kept, counts, 0))]),
        counts=WordCounts(
            sentences=len(counts),
            words=len(subwords),
            too_long_sentences=int(too_long.sum()),
            incomplete_sentences=int((~complete & ~too_long).sum()),
            empty_words=int((subwords == 0).sum()),
            kept_sentences=int(kept.sum()),
            kept_words=len(subwords_kept),
            subwords=int(subwords_kept.sum()),
            most_subwords=int(subwords_kept.max(initial=0)),
            split_words=int((subwords_kept > 1).sum()),
            unknown_words=len(np.unique(word_of_token[unknown])),
        ),
    )


def check_pooling(pooling: str) -> None:
    """Raise `OptionError` for a pooling that there is not."""
    if pooling not in POOLINGS:
        raise OptionError(f"unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")


def pooled(rows: Tensor, subwords: Tensor) -> Tensor:
    """The mean over the rows of each word, (words, d) in float32 or wider, of rows that lie word by word, (r, d).

    >>> pooled(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 1])).tolist()
    [[2.0], [5.0]]
    """
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return torch.segment_reduce(wide, "mean", lengths=subwords, unsafe=True)


def _running_text(words: Sequence[str], where: str) -> str:
    if isinstance(words, str):
        raise DataError(f"{where}: got one string, {words[:40]!r}; give the words of each sentence as a list")
    if not len(words):
        raise DataError(f"{where}: no words; every sentence needs at least one")
    for word in words:
        if not isinstance(word, str) or not word:
            raise DataError(f"{where}: expected words, got {word!r}; a word has at least one character")
    # An example refuses what no tokenizer takes.
    return Example(" ".join(words), None, where).text


def _encoded(texts: Sequence[str], tokenizer: Any) -> tuple[TokenisedTexts, NDArray[np.int64]]:
    """The tokens of all texts, uncut, and the character where each token ends in its text."""
    ids: list[list[int]] = []
    types: list[list[int]] = []
    special: list[list[int]] = []
    ends: list[int] = []
    for first in range(0, len(texts), EXAMPLES_PER_CALL):
        encoded = tokenizer(
            texts[first : first + EXAMPLES_PER_CALL],
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        ids += encoded["input_ids"]
        types += encoded.get("token_type_ids") or [[0] * len(tokens) for tokens in encoded["input_ids"]]
        special += encoded["special_tokens_mask"]
        ends += [end for offsets in encoded["offset_mapping"] for _, end in offsets]
    tokens = TokenisedTexts(
        ids=np.fromiter(chain.from_iterable(ids), dtype=np.int64),
        types=np.fromiter(chain.from_iterable(types), dtype=np.int64),
        special=np.fromiter(chain.from_iterable(special), dtype=np.bool_),
        starts=np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids], dtype=np.int64)]),
        n_truncated=0,
    )
    return tokens, np.array(ends, dtype=np.int64)
