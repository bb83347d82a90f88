"""The irregular operations on the CPU, in C++ (`bertft._core`): tied ranks, rank correlations of rows, trees."""

from __future__ import annotations

from bertft.kernels.types import Array


def tied_ranks(values: Array) -> Array:
    """Return average ranks from 1, (n,) float64; ties share the mean of their ranks."""
    from bertft import _core

    return _core.tied_ranks(values)


def row_spearman(predicted: Array, gold: Array, lengths: Array) -> Array:
    """Return Spearman's correlation of each row's first lengths[row] values, (rows,) float64."""
    from bertft import _core

    return _core.row_spearman(predicted, gold, lengths)


def spanning_trees(distances: Array, lengths: Array, keep: Array) -> Array:
    """Return parents in the spanning tree of each sentence's kept words, (batch, n) int32."""
    from bertft import _core

    return _core.spanning_trees(distances, lengths, keep)


def arborescences(scores: Array, lengths: Array) -> Array:
    """Return the heads of each sentence's highest-scoring tree with one root, (batch, n) int32."""
    from bertft import _core

    return _core.arborescences(scores, lengths)
