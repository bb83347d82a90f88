"""The L1 loss of distance probes and its gradient on the CPU: two products of matrices a sentence and layer.

The formulas of `bertft.kernels.triton_distance_loss`, one sentence at a time and all its layers together, in the type
of the words.  The n x n distances of one sentence are stored, those of the batch never are.  What is multiplied begins
at a multiple of 64 bytes, so that the same input gives the same bits in every call on one machine.
"""

from __future__ import annotations

import numpy as np

from bertft.kernels.aligned import aligned_empty
from bertft.kernels.types import Array


def distance_loss(projected: Array, gold: Array, lengths: Array) -> tuple[Array, Array]:
    """The L1 losses of squared distances and their gradient, see `bertft.kernels.reference`."""
    dtype, (layers, _, _, rank) = projected.dtype, projected.shape
    losses = np.zeros(projected.shape[:2], dtype)
    gradient = np.zeros(projected.shape, dtype)
    lengths = np.asarray(lengths)
    longest = int(lengths.max(initial=0))
    # One array for all sentences; what belongs to a sentence begins where the array does.
    word_memory, pull_memory = (aligned_empty((layers * longest * rank,), dtype) for _ in range(2))
    pair_memory, sign_memory = (aligned_empty((layers * longest * longest,), dtype) for _ in range(2))
    for sentence, n in enumerate(lengths.tolist()):
        if n == 0:
            continue
        words, pull = (memory[: layers * n * rank].reshape(layers, n, rank) for memory in (word_memory, pull_memory))
        gram, signs = (memory[: layers * n * n].reshape(layers, n, n) for memory in (pair_memory, sign_memory))
        # Distances do not change, and keep the digits that words far from the origin would cost.
        np.subtract(projected[:, sentence, :n], projected[:, sentence, :1], out=words)
        np.matmul(words, words.transpose(0, 2, 1), out=gram)
        norms = np.einsum("lii->li", gram).copy()
        apart = np.multiply(gram, -2, out=gram)
        apart += norms[:, :, None]
        apart += norms[:, None, :]
        np.einsum("lii->li", apart)[...] = 0
        apart -= gold[sentence, :n, :n].astype(dtype)
        losses[:, sentence] = np.abs(apart).sum(axis=(1, 2), dtype=np.float64) / n**2
        np.sign(apart, out=apart)
        np.add(apart, apart.transpose(0, 2, 1), out=signs)
        np.matmul(signs, words, out=pull)
        np.subtract(signs.sum(axis=2)[:, :, None] * words, pull, out=pull)
        gradient[:, sentence, :n] = pull * dtype.type(2 / n**2)
    return losses, gradient
