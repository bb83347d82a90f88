"""The pieces of sentences of words, and which of them each word became: what probes of spans read.

Other than for vectors of words, nothing is dropped: a sentence longer than the model takes keeps the pieces that fit,
and a word of which the tokenizer makes nothing has an empty range.  Which spans are whole, `PieceRanges.spans` says.
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
class PieceCounts:
    """What became of the given sentences and words."""

    sentences: int
    words: int
    pieces: int
    """Those that were kept."""
    cut_sentences: int
    """Longer than the model takes: their last pieces were cut off."""
    pieceless_words: int
    """Words of which the tokenizer makes no piece."""
    unknown_words: int
    """Words of which a kept piece is the tokenizer's unknown token."""

    def notes(self, max_length: int) -> tuple[str, ...]:
        """What a reader of the numbers should know, as sentences; none where every word was known and kept."""
        notes = []
        if self.cut_sentences:
            notes.append(
                f"{self.cut_sentences} of {self.sentences} sentences have more than {max_length} tokens and were cut"
            )
        if self.pieceless_words:
            notes.append(f"the tokenizer makes nothing of {self.pieceless_words} of {self.words} words")
        if self.unknown_words:
            notes.append(f"{self.unknown_words} of {self.words} words are unknown to the tokenizer")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class PieceRanges:
    """Which pieces the words of n sentences became, and how many first pieces of each sentence were kept.

    >>> ranges = PieceRanges(np.array([0, 2]), np.array([0, 1, 4]), np.array([3]))  # a word of one piece, one of three
    >>> pieces, whole = ranges.spans(np.array([0, 0]), np.array([[0, 1], [0, 2]]))
    >>> pieces.tolist(), whole.tolist()
    ([[0, 1], [0, 4]], [True, False])
    """

    words: NDArray[np.int64]  # [n + 1], sentence i has words words[i] to words[i + 1]
    ends: NDArray[np.int64]  # [words + 1], word w became pieces ends[w] to ends[w + 1], those cut off included
    kept: NDArray[np.int64]  # [n]

    def spans(
        self, sentences: NDArray[np.int64], spans: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The pieces (t, 2) of spans of words (t, 2), counted in their sentences (t,), and which are whole (t,).

        A span runs from the first piece of its first word to the last of its last.  It is not whole where one of them
        was cut off, or where the tokenizer makes nothing of any of its words.
        """
        first = self.words[sentences]
        pieces = self.ends[first[:, None] + spans] - self.ends[first][:, None]
        return pieces, (pieces[:, 0] < pieces[:, 1]) & (pieces[:, 1] <= self.kept[sentences])


@dataclass(frozen=True, eq=False)
class TokenisedPieces:
    """The tokens of n sentences, long ones cut, and the pieces that their words became."""

    texts: TokenisedTexts
    ranges: PieceRanges
    counts: PieceCounts

    @property
    def starts(self) -> NDArray[np.int64]:
        """Sentence i owns pieces starts[i] to starts[i + 1] of all that were kept, (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.ranges.kept)])

    def draw(self) -> Draw:
        """All tokens but the special ones."""
        positions = np.flatnonzero(~self.texts.special)
        return Draw(positions, np.searchsorted(self.texts.starts, positions, side="right") - 1)


def tokenise_pieces(sentences: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> TokenisedPieces:
    """Tokenise sentences of words, cutting the last pieces of those of more than `max_length` tokens.

    Special tokens count and are never cut.  Raises as `tokenise_words` does.
    """
    aligned = align(sentences, tokenizer)
    tokens, own = aligned.tokens, ~aligned.tokens.special
    # How many pieces come before each token, in its sentence.
    before = np.concatenate([[0], np.cumsum(own)])
    sentence = np.repeat(np.arange(len(sentences)), tokens.lengths)
    room = max_length - (tokens.lengths - np.diff(before[tokens.starts]))
    cut = own & (before[:-1] - before[tokens.starts[sentence]] >= room[sentence])
    here = ~cut
    starts = np.concatenate([[0], np.cumsum(here)])[tokens.starts]
    too_long = int((tokens.lengths > max_length).sum())
    unknown = own & here & (tokens.ids == tokenizer.unk_token_id)
    return TokenisedPieces(
        texts=TokenisedTexts(tokens.ids[here], tokens.types[here], tokens.special[here], starts, too_long),
        ranges=PieceRanges(
            words=aligned.first_word,
            ends=np.concatenate([[0], np.cumsum(aligned.pieces)]),
            kept=np.diff(np.concatenate([[0], np.cumsum(own & here)])[tokens.starts]),
        ),
        counts=PieceCounts(
            sentences=len(sentences),
            words=len(aligned.pieces),
            pieces=int((own & here).sum()),
            cut_sentences=too_long,
            pieceless_words=int((aligned.pieces == 0).sum()),
            unknown_words=len(np.unique(aligned.words[unknown])),
        ),
    )
