"""The L1 loss of distance probes and its gradient on the CPU: two matrix products for each sentence and layer.

The formulas are those of `bertft.kernels.triton_distance_loss`, in the type of the words, one sentence at a time with
all its layers together. The n x n distances of one sentence are stored, those of a whole batch never are.
"""

from __future__ import annotations

import numpy as np

from bertft.kernels.types import Array


def distance_loss(projected: Array, gold: Array, lengths: Array) -> tuple[Array, Array]:
    """Return the L1 losses of squared distances and their gradient, see `bertft.kernels.reference`."""
    dtype = projected.dtype
    losses = np.zeros(projected.shape[:2], dtype)
    gradient = np.zeros(projected.shape, dtype)
    for sentence, n in enumerate(np.asarray(lengths).tolist()):
        if n == 0:
            continue
        words = projected[:, sentence, :n]
        # A shift changes no distance, and keeps the digits that words far from the origin would lose.
        words = words - words[:, :1]
        gram = words @ words.transpose(0, 2, 1)
        norms = np.einsum("lii->li", gram).copy()
        apart = np.multiply(gram, -2, out=gram)
        apart += norms[:, :, None]
        apart += norms[:, None, :]
        np.einsum("lii->li", apart)[...] = 0
        apart -= gold[sentence, :n, :n].astype(dtype)
        losses[:, sentence] = np.abs(apart).sum(axis=(1, 2), dtype=np.float64) / n**2
        signs = np.sign(apart, out=apart)
        signs = signs + signs.transpose(0, 2, 1)
        pull = signs.sum(axis=2)[:, :, None] * words
        pull -= signs @ words
        gradient[:, sentence, :n] = pull * dtype.type(2 / n**2)
    return losses, gradient
