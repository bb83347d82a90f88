"""The subwords of sentences of words, and the range of subwords of each word, for probes of spans.

Unlike for word vectors, no sentence is dropped. A sentence that is longer than the model takes keeps the subwords that
fit, and a word without subwords has an empty range. `SubwordRanges.spans` reports which spans are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertft.activations.encode import TokenisedTexts
from bertft.activations.sampling import Draw
from bertft.activations.words import align


@dataclass(frozen=True)
class SubwordCounts:
    """Counts of the given sentences and words, and of their subwords."""

    sentences: int
    words: int
    subwords: int
    """The subwords that were kept."""
    cut_sentences: int
    """Sentences longer than the model takes; their last subwords were removed."""
    empty_words: int
    """Words without subwords."""
    unknown_words: int
    """Words with a kept subword that is the tokenizer's unknown token."""

    def notes(self, max_length: int) -> tuple[str, ...]:
        """Return notes for readers of the results; empty where every word was known and kept."""
        notes = []
        if self.cut_sentences:
            notes.append(
                f"{self.cut_sentences} of {self.sentences} sentences have more than {max_length} tokens and were cut"
            )
        if self.empty_words:
            notes.append(f"{self.empty_words} of {self.words} words have no subwords")
        if self.unknown_words:
            notes.append(f"{self.unknown_words} of {self.words} words are unknown to the tokenizer")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class SubwordRanges:
    """The subwords of each word of n sentences, and the number of kept subwords of each sentence.

    >>> ranges = SubwordRanges(np.array([0, 2]), np.array([0, 1, 4]), np.array([3]))  # words of 1 and 3 subwords
    >>> subwords, complete = ranges.spans(np.array([0, 0]), np.array([[0, 1], [0, 2]]))
    >>> subwords.tolist(), complete.tolist()
    ([[0, 1], [0, 4]], [True, False])
    """

    words: NDArray[np.int64]  # [n + 1], sentence i has words words[i] to words[i + 1]
    ends: NDArray[np.int64]  # [words + 1], word w has subwords ends[w] to ends[w + 1], removed ones included
    kept: NDArray[np.int64]  # [n]

    def spans(
        self, sentences: NDArray[np.int64], spans: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return spans in subwords, (t, 2), for spans in words, (t, 2), and whether they are complete, (t,).

        Both are counted within their sentences, (t,). A span runs from the first subword of its first word to the last
        subword of its last word. It is not complete where one of its subwords was removed, or where it has none.
        """
        first = self.words[sentences]
        subwords = self.ends[first[:, None] + spans] - self.ends[first][:, None]
        return subwords, (subwords[:, 0] < subwords[:, 1]) & (subwords[:, 1] <= self.kept[sentences])


@dataclass(frozen=True, eq=False)
class TokenisedSubwords:
    """The tokens of n sentences, long ones truncated, and the subwords of their words."""

    texts: TokenisedTexts
    ranges: SubwordRanges
    counts: SubwordCounts

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first kept subword of each sentence, (n + 1,): sentence i owns subwords starts[i] to starts[i + 1]."""
        return np.concatenate([[0], np.cumsum(self.ranges.kept)])

    def draw(self) -> Draw:
        """Return all tokens except special tokens."""
        positions = np.flatnonzero(~self.texts.special)
        return Draw(positions, np.searchsorted(self.texts.starts, positions, side="right") - 1)


def tokenise_subwords(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> TokenisedSubwords:
    """Tokenise sentences of words; remove the last subwords of sentences with more than `max_length` tokens.

    Special tokens count, and are never removed. Raises as `tokenise_words` does.
    """
    aligned = align(sentences, tokenizer)
    tokens, own = aligned.tokens, ~aligned.tokens.special
    # The number of subwords before each token.
    before = np.concatenate([[0], np.cumsum(own)])
    sentence = np.repeat(np.arange(len(sentences)), tokens.lengths)
    room = max_length - (tokens.lengths - np.diff(before[tokens.starts]))
    cut = own & (before[:-1] - before[tokens.starts[sentence]] >= room[sentence])
    here = ~cut
    starts = np.concatenate([[0], np.cumsum(here)])[tokens.starts]
    too_long = int((tokens.lengths > max_length).sum())
    unknown = own & here & (tokens.ids == tokenizer.unk_token_id)
    return TokenisedSubwords(
        texts=TokenisedTexts(tokens.ids[here], tokens.types[here], tokens.special[here], starts, too_long),
        ranges=SubwordRanges(
            words=aligned.first_word,
            ends=np.concatenate([[0], np.cumsum(aligned.subwords)]),
            kept=np.diff(np.concatenate([[0], np.cumsum(own & here)])[tokens.starts]),
        ),
        counts=SubwordCounts(
            sentences=len(sentences),
            words=len(aligned.subwords),
            subwords=int((own & here).sum()),
            cut_sentences=too_long,
            empty_words=int((aligned.subwords == 0).sum()),
            unknown_words=len(np.unique(aligned.words[unknown])),
        ),
    )
