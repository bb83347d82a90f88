"""The L1 loss of distance probes and its gradient on the CPU: two products of matrices a sentence and layer.

The formulas of `bertft.kernels.triton_distance_loss`, one sentence at a time and all its layers together, in the type
of the words.  The n x n distances of one sentence are stored, those of the batch never are.
"""

from __future__ import annotations

import numpy as np

from bertft.kernels.types import Array


def distance_loss(projected: Array, gold: Array, lengths: Array) -> tuple[Array, Array]:
    """The L1 losses of squared distances and their gradient, see `bertft.kernels.reference`."""
    dtype = projected.dtype
    losses = np.zeros(projected.shape[:2], dtype)
    gradient = np.zeros(projected.shape, dtype)
    for sentence, n in enumerate(np.asarray(lengths).tolist()):
        if n == 0:
            continue
        words = projected[:, sentence, :n]
        # Distances do not change, and keep the digits that words far from the origin would cost.
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
