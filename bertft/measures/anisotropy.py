"""Mean cosine of the pairs of rows of one space, a measure of its anisotropy (Ethayarajh 2019)."""

from __future__ import annotations

from bertft.statistics.moments import Moments
from bertft.statistics.pair_sums import sums_of_moments
from bertft.statistics.standard_error import Effects, GroupRows


def mean_cosine(moments: Moments, side: int) -> float:
    """Return the mean cosine over pairs i < j of x (side 0) or y (side 1)."""
    sums = sums_of_moments(moments, "dot")
    return float((sums.f, sums.g)[side] / sums.pairs + (sums.x_shift, sums.y_shift)[side])


def mean_cosine_effects(moments: Moments, side: int, rows: GroupRows) -> Effects:
    """What sampled rows, and leaving out their groups, do to the mean cosine: a row's cosines with all others go."""
    n, value = moments.n, mean_cosine(moments, side)
    vectors, center = (rows.u, moments.x_center) if side == 0 else (rows.v, moments.y_center)
    total = (moments.sums.x_vectors, moments.sums.y_vectors)[side][0] + n * center  # the sum of the unit rows
    offsets = vectors @ center
    # A cosine is |center|^2 + f, and of a row with itself it is 1.
    of_row = vectors @ total + center @ total - 1.0
    square = float(center @ center)
    within = rows.within(offsets, offsets)[:, side] + square * rows.sizes * (rows.sizes - 1) / 2
    others = n - rows.sizes
    left = value * n * (n - 1) / 2 - rows.totals(of_row) + within
    return Effects(2.0 * (of_row / (n - 1) - value), left / (others * (others - 1) / 2))
