"""Mean cosine of the pairs of rows of one space, a measure of its anisotropy (Ethayarajh 2019)."""

from __future__ import annotations

import numpy as np

from bertft.statistics.moments import Moments
from bertft.statistics.pair_sums import sums_of_moments
from bertft.statistics.standard_error import Effects, GroupRows


def mean_cosine(moments: Moments, side: int) -> float:
    """Return the mean cosine over pairs i < j of x (side 0) or y (side 1)."""
    sums = sums_of_moments(moments, "dot")
    return float((sums.f, sums.g)[side] / sums.pairs + (sums.x_shift, sums.y_shift)[side])


def mean_cosine_effects(moments: Moments, side: int, rows: GroupRows) -> Effects:
    """Return the influences of the sampled rows on the mean cosine, and the mean cosine without each group."""
    n, value = moments.n, mean_cosine(moments, side)
    shifted, center = ((rows.u, moments.x_center), (rows.v, moments.y_center))[side]
    vectors = shifted + center  # the unit rows
    total = (moments.sums.x_vectors, moments.sums.y_vectors)[side][0] + n * center
    of_row = vectors @ total - 1.0  # its cosines with all others
    sums = np.add.reduceat(vectors, rows.first, axis=0)
    within = rows.pair_weights * (np.einsum("gd,gd->g", sums, sums) - rows.kept) / 2
    others = n - rows.sizes
    left = value * n * (n - 1) / 2 - rows.totals(of_row) + within
    return Effects(2.0 * (of_row / (n - 1) - value), left / (others * (others - 1) / 2))
