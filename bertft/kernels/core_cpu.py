"""The irregular operations on the CPU, by the compiled core: tied ranks, rank correlations of rows, trees."""

from __future__ import annotations

from bertft.kernels.types import Array


def tied_ranks(values: Array) -> Array:
    from bertft import _core

    return _core.tied_ranks(values)


def row_spearman(predicted: Array, gold: Array, lengths: Array) -> Array:
    from bertft import _core

    return _core.row_spearman(predicted, gold, lengths)


def spanning_trees(distances: Array, lengths: Array, keep: Array) -> Array:
    from bertft import _core

    return _core.spanning_trees(distances, lengths, keep)


def arborescences(scores: Array, lengths: Array) -> Array:
    from bertft import _core

    return _core.arborescences(scores, lengths)
