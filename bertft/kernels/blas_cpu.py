"""The L1 loss of distance probes and its gradient on the CPU: two matrix products for each sentence and layer.

The formulas are those of `bertft.kernels.triton_distance_loss`, in the type of the words, one sentence at a time with
all its layers together. The n x n distances of one sentence are stored, those of a whole batch never are. The operands
of products begin at a multiple of 64 bytes, so the same input gives the same bits in every call on one machine.
"""

from __future__ import annotations

import numpy as np

from bertft.kernels.aligned import aligned_empty
from bertft.kernels.types import Array


def distance_loss(projected: Array, gold: Array, lengths: Array) -> tuple[Array, Array]:
    """Return the L1 losses of squared distances and their gradient, see `bertft.kernels.reference`."""
    dtype, (layers, _, _, rank) = projected.dtype, projected.shape
    losses = np.zeros(projected.shape[:2], dtype)
    gradient = np.zeros(projected.shape, dtype)
    lengths = np.asarray(lengths)
    longest = int(lengths.max(initial=0))
    # All sentences use the same memory. The part for a sentence begins where the memory does.
    word_memory, pull_memory = (aligned_empty((layers * longest * rank,), dtype) for _ in range(2))
    pair_memory, sign_memory = (aligned_empty((layers * longest * longest,), dtype) for _ in range(2))
    for sentence, n in enumerate(lengths.tolist()):
        if n == 0:
            continue
        words, pull = (memory[: layers * n * rank].reshape(layers, n, rank) for memory in (word_memory, pull_memory))
        gram, signs = (memory[: layers * n * n].reshape(layers, n, n) for memory in (pair_memory, sign_memory))
        # A shift changes no distance, and keeps the digits that words far from the origin would lose.
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
