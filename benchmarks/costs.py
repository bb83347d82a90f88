"""Floating-point operations and bytes of each method, computed from shapes alone.

A multiplication and an addition count as two operations. Square roots, sorts and sums over rows are not counted. Bytes
are the minimum that a method reads and writes. Inputs are read once and results are written once. A stored matrix over
pairs is written once and read once. Small caches cause more traffic, so GB/s is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable

FLOAT32 = 4
"""The size of a float32 in bytes."""

Cost = dict[str, float]


def moments(n: int, d: int) -> Cost:
    """Return the cost of XᵀX, YᵀY and XᵀY of two spaces (n, d). Half of each symmetric product is counted."""
    return {"flops": 4.0 * n * d * d, "bytes": 2.0 * n * d * FLOAT32}


def tiles(n: int, d: int, passes: int = 1) -> Cost:
    """Return the cost of the products of all pairs of rows in both spaces, for each pass.

    Each pair is computed once per pass. No matrix over pairs is stored.
    """
    return {"flops": 2.0 * passes * n * n * d, "bytes": 2.0 * passes * n * d * FLOAT32}


def dense(n: int, d: int) -> Cost:
    """Return the cost of two full n x n matrices, stored and read again."""
    return {"flops": 4.0 * n * n * d, "bytes": 2.0 * (n * d + 2 * n * n) * FLOAT32}


def forward_passes(batches: Iterable[tuple[int, int]], blocks: int, d: int, models: int = 1) -> Cost:
    """Return the cost of BERT encoders over padded batches (sentences, longest).

    Each block has 12 d² weights, and attention is added.
    """
    flops = 0.0
    for sentences, longest in batches:
        tokens = sentences * longest
        flops += models * blocks * (2.0 * tokens * 12 * d * d + 2.0 * 2 * tokens * longest * d)
    return {"flops": flops}


def pairs_of_words(lengths: Iterable[int], arrays: int, itemsize: int) -> Cost:
    """Return the cost of reading the distances of all sentences once from each array.

    This is what an evaluation or a spanning tree reads.
    """
    return {"bytes": float(arrays * itemsize * sum(int(n) ** 2 for n in lengths))}


def words(lengths: Iterable[int], arrays: int, itemsize: int) -> Cost:
    """Return the cost of reading the depths of all sentences once from each array."""
    return {"bytes": float(arrays * itemsize * sum(map(int, lengths)))}


def distance_probes(lengths: Iterable[int], layers: int, d: int, rank: int) -> Cost:
    """Return the cost of one epoch of distance probes B (d, rank).

    It includes the projection, the distances of all pairs, and the gradients of both. Distances are counted as a
    product of the projected rows. Vectors are read once in float16, as the cache stores them.
    """
    n = [int(length) for length in lengths]
    flops = layers * (4.0 * sum(n) * d * rank + 6.0 * sum(length**2 for length in n) * rank)
    return {"flops": flops, "bytes": 2.0 * layers * sum(n) * d}
