"""Sampling: which sentences are read, and which of their tokens are compared.

The sample is drawn once, before any model runs. It depends only on the seed and the texts, so every model and layer
sees the same tokens, with any batch size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertft.activations.encode import TokenisedTexts


@dataclass(frozen=True)
class Draw:
    """The drawn tokens in text order: their indices in the flat token arrays, and the sentence of each."""

    positions: NDArray[np.int64]  # [n], increasing
    sentences: NDArray[np.int64]  # [n], never decreasing

    @property
    def n_tokens(self) -> int:
        return len(self.positions)

    @property
    def n_sentences(self) -> int:
        """The number of sentences with at least one drawn token."""
        return len(np.unique(self.sentences))


def draw_sentences(available: int, wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Draw `wanted` of `available` sentences without replacement; return their indices in order. None takes all.

    >>> draw_sentences(5, None, seed=0).tolist()
    [0, 1, 2, 3, 4]
    """
    if wanted is None or wanted >= available:
        return np.arange(available, dtype=np.int64)
    sentence_generator, _ = _generators(seed)
    return np.sort(sentence_generator.choice(available, size=wanted, replace=False)).astype(np.int64)


def draw_tokens(texts: TokenisedTexts, wanted: int | None, seed: int, *, special_tokens: bool = False) -> Draw:
    """Draw `wanted` tokens of the texts without replacement; None, or more than there are, takes all.

    Special tokens are included only with `special_tokens`.
    """
    positions = np.arange(len(texts.ids)) if special_tokens else np.flatnonzero(~texts.special)
    if wanted is not None and wanted < len(positions):
        _, token_generator = _generators(seed)
        positions = np.sort(token_generator.choice(positions, size=wanted, replace=False))
    return Draw(positions, np.searchsorted(texts.starts, positions, side="right") - 1)


def _generators(seed: int) -> list[np.random.Generator]:
    """Return two independent generators, so that a limit on sentences does not change the sample of tokens."""
    return np.random.default_rng(seed).spawn(2)
