"""The subwords of sentences of words, and which of them each word became: what probes of spans read.

Other than for vectors of words, nothing is dropped: a sentence longer than the model takes keeps the subwords that fit,
and a word of which the tokenizer makes nothing has an empty range.  Which spans are whole, `SubwordRanges.spans` says.
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
    """What became of the given sentences and words."""

    sentences: int
    words: int
    subwords: int
    """Those that were kept."""
    cut_sentences: int
    """Longer than the model takes: their last subwords were cut off."""
    empty_words: int
    """Words of which the tokenizer makes no subword."""
    unknown_words: int
    """Words of which a kept subword is the tokenizer's unknown token."""

    def notes(self, max_length: int) -> tuple[str, ...]:
        """What a reader of the numbers should know, as sentences; none where every word was known and kept."""
        notes = []
        if self.cut_sentences:
            notes.append(
                f"{self.cut_sentences} of {self.sentences} sentences have more than {max_length} tokens and were cut"
            )
        if self.empty_words:
            notes.append(f"the tokenizer makes nothing of {self.empty_words} of {self.words} words")
        if self.unknown_words:
            notes.append(f"{self.unknown_words} of {self.words} words are unknown to the tokenizer")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class SubwordRanges:
    """Which subwords the words of n sentences became, and how many first subwords of each sentence were kept.

    >>> ranges = SubwordRanges(np.array([0, 2]), np.array([0, 1, 4]), np.array([3]))  # words of 1 and 3 subwords
    >>> subwords, whole = ranges.spans(np.array([0, 0]), np.array([[0, 1], [0, 2]]))
    >>> subwords.tolist(), whole.tolist()
    ([[0, 1], [0, 4]], [True, False])
    """

    words: NDArray[np.int64]  # [n + 1], sentence i has words words[i] to words[i + 1]
    ends: NDArray[np.int64]  # [words + 1], word w became subwords ends[w] to ends[w + 1], those cut off included
    kept: NDArray[np.int64]  # [n]

    def spans(
        self, sentences: NDArray[np.int64], spans: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The subwords (t, 2) of spans of words (t, 2), counted in their sentences (t,), and which are whole (t,).

        A span runs from the first subword of its first word to the last of its last.  It is not whole where one of them
        was cut off, or where the tokenizer makes nothing of any of its words.
        """
        first = self.words[sentences]
        subwords = self.ends[first[:, None] + spans] - self.ends[first][:, None]
        return subwords, (subwords[:, 0] < subwords[:, 1]) & (subwords[:, 1] <= self.kept[sentences])


@dataclass(frozen=True, eq=False)
class TokenisedSubwords:
    """The tokens of n sentences, long ones cut, and the subwords that their words became."""

    texts: TokenisedTexts
    ranges: SubwordRanges
    counts: SubwordCounts

    @property
    def starts(self) -> NDArray[np.int64]:
        """Sentence i owns subwords starts[i] to starts[i + 1] of all that were kept, (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.ranges.kept)])

    def draw(self) -> Draw:
        """All tokens but the special ones."""
        positions = np.flatnonzero(~self.texts.special)
        return Draw(positions, np.searchsorted(self.texts.starts, positions, side="right") - 1)


def tokenise_subwords(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> TokenisedSubwords:
    """Tokenise sentences of words, cutting the last subwords of those of more than `max_length` tokens.

    Special tokens count and are never cut.  Raises as `tokenise_words` does.
    """
    aligned = align(sentences, tokenizer)
    tokens, own = aligned.tokens, ~aligned.tokens.special
    # How many subwords come before each token, in its sentence.
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
