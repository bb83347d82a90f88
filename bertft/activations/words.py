"""Words and their subwords, aligned by the character offsets of the tokenizer.

The tokenizer gets a sentence as running text, its words joined by single spaces, so the model reads the subwords that
it was trained on. Each subword belongs to the word in which it ends. A space belongs to the following word, as in the
subwords of byte-level and unigram tokenizers.

Probes of trees need every word. A sentence is dropped, and counted, where it is longer than the model takes, or where
one of its words (of control characters, for example) has no subwords. Sentences are never cut or filled in.
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
    """Counts of sentences and words; subwords, split words and unknown words are counted in kept sentences only."""

    sentences: int
    words: int
    too_long_sentences: int
    """Sentences dropped because they have more tokens than the model takes."""
    incomplete_sentences: int
    """Sentences dropped because a word has no subwords, without those that are also too long."""
    empty_words: int
    """Words without subwords, in all sentences."""
    kept_sentences: int
    kept_words: int
    subwords: int
    most_subwords: int
    """The largest number of subwords of a word."""
    split_words: int
    """Words with more than one subword."""
    unknown_words: int
    """Words with a subword that is the tokenizer's unknown token."""

    def notes(self, max_length: int) -> tuple[str, ...]:
        """Return notes for readers of the results; empty where every word was known and kept."""
        notes = []
        if self.too_long_sentences:
            notes.append(
                f"{self.too_long_sentences} of {self.sentences} sentences have more than {max_length} tokens "
                "and were dropped"
            )
        if self.incomplete_sentences:
            notes.append(
                f"{self.incomplete_sentences} of {self.sentences} sentences were dropped because a word in them has "
                "no subwords"
            )
        if self.unknown_words:
            notes.append(f"{self.unknown_words} of {self.kept_words} words are unknown to the tokenizer")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class TokenisedWords:
    """The tokens of n sentences and their words; words are numbered across all kept sentences."""

    texts: TokenisedTexts
    word_of_token: NDArray[np.int64]  # [tokens], -1 for special tokens and in dropped sentences
    subwords: NDArray[np.int64]  # [kept words], at least 1
    starts: NDArray[np.int64]  # [n + 1], sentence i owns words starts[i] to starts[i + 1]; none where it was dropped
    counts: WordCounts

    def draw(self, pooling: str) -> Draw:
        """Return the tokens from which word vectors are computed: all tokens of a word, or only the first or last."""
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
    """The full tokens of n sentences and the word of each; words are numbered across all sentences."""

    tokens: TokenisedTexts
    words: NDArray[np.int64]  # [tokens], -1 for special tokens
    subwords: NDArray[np.int64]  # [words], the number of subwords of each word
    first_word: NDArray[np.int64]  # [n + 1], sentence i has words first_word[i] to first_word[i + 1]


def align(sentences: Sequence[Sequence[str]], tokenizer: Any) -> Alignment:
    """Tokenise sentences of words in full and assign the tokens to words; raise as `tokenise_words` does."""
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"{type(tokenizer).__name__}: has no character offsets, so tokens cannot be assigned to words; convert it "
            "to a fast tokenizer (a tokenizer.json)"
        )
    texts = [_running_text(words, f"sentences[{index}]") for index, words in enumerate(sentences)]
    if not texts:
        raise DataError("no sentences; give at least one")
    tokens, ends = _encoded(texts, tokenizer)

    # With all sentences joined by spaces to one text, every word and every subword has an end position.
    first_word = np.concatenate([[0], np.cumsum([len(words) for words in sentences])])
    word_ends = np.cumsum([len(word) + 1 for words in sentences for word in words]) - 1
    text_starts = np.concatenate([[0], word_ends + 1])[first_word[:-1]]
    words = np.searchsorted(word_ends, np.repeat(text_starts, tokens.lengths) + ends)
    words[tokens.special] = -1
    own = words[~tokens.special]
    if (np.diff(own) < 0).any():
        raise CheckpointError(
            f"{type(tokenizer).__name__}: its character offsets decrease, so tokens cannot be assigned to words"
        )
    return Alignment(tokens, words, np.bincount(own, minlength=len(word_ends)), first_word)


def tokenise_words(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> TokenisedWords:
    """Tokenise sentences of words; keep those with at most `max_length` tokens, special tokens included.

    Raises `CheckpointError` for a tokenizer without offsets, and `DataError` for a sentence without words and for a
    blank word.
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
    """Raise `OptionError` for an unknown pooling."""
    if pooling not in POOLINGS:
        raise OptionError(f"unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")


def pooled(rows: Tensor, subwords: Tensor) -> Tensor:
    """Return the mean of the rows of each word, (words, d) in float32 or wider; `rows`, (r, d), are ordered by word.

    >>> pooled(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 1])).tolist()
    [[2.0], [5.0]]
    """
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return torch.segment_reduce(wide, "mean", lengths=subwords, unsafe=True)


def _running_text(words: Sequence[str], where: str) -> str:
    if isinstance(words, str):
        raise DataError(f"{where}: got one string, {words[:40]!r}; give each sentence as a list of words")
    if not len(words):
        raise DataError(f"{where}: no words; every sentence needs at least one")
    for word in words:
        if not isinstance(word, str) or not word:
            raise DataError(f"{where}: expected words, got {word!r}; a word has at least one character")
    # `Example` raises for texts that no tokenizer accepts.
    return Example(" ".join(words), None, where).text


def _encoded(texts: Sequence[str], tokenizer: Any) -> tuple[TokenisedTexts, NDArray[np.int64]]:
    """Return the full tokens of all texts, and the end of each token in its text, in characters."""
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
