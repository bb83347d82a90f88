"""Mean cosine of the pairs of rows of one space, a measure of its anisotropy (Ethayarajh 2019)."""

from __future__ import annotations

import numpy as np

from bertft.kernels.types import Array
from bertft.statistics.moments import Moments
from bertft.statistics.pair_sums import sums_of_moments


def mean_cosine(moments: Moments, side: int) -> float:
    """Return the mean cosine over pairs i < j of x (side 0) or y (side 1)."""
    sums = sums_of_moments(moments, "dot")
    return float((sums.f, sums.g)[side] / sums.pairs + (sums.x_shift, sums.y_shift)[side])


def mean_cosine_influence(moments: Moments, side: int, u: Array, v: Array) -> Array:
    """Twice the mean cosine of each row with the others, less the mean over pairs."""
    rows, center = (u, moments.x_center) if side == 0 else (v, moments.y_center)
    total = (moments.sums.x_vectors, moments.sums.y_vectors)[side][0] + moments.n * center  # the sum of the unit rows
    with_others = ((rows + center) @ total - 1.0) / (moments.n - 1)
    return np.asarray(2.0 * (with_others - mean_cosine(moments, side)))
