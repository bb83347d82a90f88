"""Exact values and ranks of all pairs on a GPU, with O(n^2) memory: for sizes where every pair fits.

Plain torch in float64. Distances come from differences of rows, since -2 g has no digits left where two rows are
nearly equal.
"""

from __future__ import annotations

import torch

from bertft.kernels.types import Array, Link, Rows

BLOCK = 1024
"""Rows of the triangle computed at a time: small enough that the unused squares below the diagonal cost little."""


def pair_values(rows: Rows, link: Link) -> Array:
    """Return the values of all pairs i < j in row order, (n (n - 1) / 2,) float64."""
    vectors, offsets = rows.vectors.double(), rows.offsets
    n = len(vectors)
    values = torch.empty(n * (n - 1) // 2, dtype=torch.float64, device=vectors.device)
    done = 0
    for first in range(0, n, BLOCK):
        block, rest = vectors[first : first + BLOCK], vectors[first:]
        if link.name == "identity":
            square = offsets[first : first + BLOCK, None] + offsets[None, first:] + block @ rest.T
        else:
            square = torch.cdist(block, rest, compute_mode="donot_use_mm_for_euclid_dist")
        part = square[torch.ones_like(square, dtype=torch.bool).triu(1)]
        if link.name == "rbf":
            part = torch.exp(-link.gamma * part.square())
        values[done : done + len(part)] = part - link.center
        done += len(part)
    return values


def tied_ranks(values: Array) -> Array:
    """Return average ranks from 1, (n,) float64; ties share the mean of their ranks. All are nan if a value is nan."""
    ordered, order = torch.sort(values)
    _, run, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    means = counts.cumsum(0) - (counts - 1) / 2.0  # a run of c ranks that ends at r has the mean r - (c - 1) / 2
    ranks = torch.empty(len(values), dtype=torch.float64, device=values.device)
    ranks[order] = means.double()[run]
    return torch.where(values.isnan().any(), torch.nan, ranks)
