"""What each method has to compute and to move, from shapes alone: floating-point operations and bytes.

A multiplication and an addition are two operations; square roots, sorts and sums over rows are not counted.  Bytes are
the least that a method reads and writes: inputs once, results once, and matrices over pairs that it stores written once
and read once.  Caches too small for this make it more, so that GB/s is a lower bound of what was moved.
"""

from __future__ import annotations

from collections.abc import Iterable

SINGLE = 4
"""Bytes of a float32."""

Cost = dict[str, float]


def moments(n: int, d: int) -> Cost:
    """XᵀX, YᵀY and XᵀY of two spaces (n, d), the symmetric two by half."""
    return {"flops": 4.0 * n * d * d, "bytes": 2.0 * n * d * SINGLE}


def tiles(n: int, d: int, passes: int = 1) -> Cost:
    """The products of each pair of rows once in both spaces, in as many passes; nothing over pairs is stored."""
    return {"flops": 2.0 * passes * n * n * d, "bytes": 2.0 * passes * n * d * SINGLE}


def dense(n: int, d: int) -> Cost:
    """Both n x n matrices in full, stored and read again."""
    return {"flops": 4.0 * n * n * d, "bytes": 2.0 * (n * d + 2 * n * n) * SINGLE}


def forward_passes(batches: Iterable[tuple[int, int]], blocks: int, d: int, models: int = 1) -> Cost:
    """Encoders of BERT's form over padded batches (sentences, longest): 12 d² weights a block, and attention."""
    flops = 0.0
    for sentences, longest in batches:
        tokens = sentences * longest
        flops += models * blocks * (2.0 * tokens * 12 * d * d + 2.0 * 2 * tokens * longest * d)
    return {"flops": flops}


def pairs_of_words(lengths: Iterable[int], arrays: int, itemsize: int) -> Cost:
    """Distances of sentences, each array read once: what an evaluation or a spanning tree reads."""
    return {"bytes": float(arrays * itemsize * sum(int(n) ** 2 for n in lengths))}


def words(lengths: Iterable[int], arrays: int, itemsize: int) -> Cost:
    """Depths of sentences, each array read once."""
    return {"bytes": float(arrays * itemsize * sum(map(int, lengths)))}


def distance_probes(lengths: Iterable[int], layers: int, d: int, rank: int) -> Cost:
    """An epoch of probes B (d, rank): the projection and its gradient, and of all pairs distances and their gradient.

    Distances are counted as a product of the projected rows, and vectors as read once in float16, as the cache holds
    them.
    """
    n = [int(length) for length in lengths]
    flops = layers * (4.0 * sum(n) * d * rank + 6.0 * sum(length**2 for length in n) * rank)
    return {"flops": flops, "bytes": 2.0 * layers * sum(n) * d}
