"""Covariances of the raw rows, and their whitening, for CKA, CCA and Procrustes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bertft.kernels.types import Array
from bertft.statistics.moments import Moments


def covariances(moments: Moments) -> tuple[Array, Array, Array]:
    """Return the covariances of x, of y and between them, divided by n, float64."""
    n, sums = moments.n, moments.sums
    s, t = sums.x_vectors[0], sums.y_vectors[0]
    return (
        (sums.xx - np.outer(s, s) / n) / n,
        (sums.yy - np.outer(t, t) / n) / n,
        (sums.xy - np.outer(s, t) / n) / n,
    )


def constant_side(moments: Moments) -> str | None:
    """Return the name of the side, "x" or "y", whose rows do not vary, or None."""
    return next((side for side, varies in zip("xy", moments.varies(), strict=True) if not varies), None)


ROUNDING = 1e-13
"""The share of the largest variance that rounding, also of rows in float32, gives to a component without any."""


class Whitening(NamedTuple):
    """`matrix` (d, k) maps centred rows to k uncorrelated columns of variance 1, principal components first."""

    matrix: Array
    kept_variance: float
    left_out: int
    """Components that were left out although rounding alone does not explain them."""


def whiten(covariance: Array, share: float = 1.0, precision: float = 1e-10) -> Whitening:
    """Return the leading principal components that hold `share` of the variance, scaled to variance 1.

    Components with less than `precision` of the largest variance are noise of the products and are left out.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int(np.count_nonzero(values > precision * max(values[0], 0.0)))
    left_out = int(np.count_nonzero(values > ROUNDING * max(values[0], 0.0))) - rank
    total = np.cumsum(values[:rank])
    if share < 1.0 and rank:
        rank = int(np.searchsorted(total, share * total[-1])) + 1
    kept = float(total[rank - 1] / total[-1]) if rank else 0.0
    return Whitening(vectors[:, :rank] / np.sqrt(values[:rank]), kept, left_out)
