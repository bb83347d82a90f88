"""Spearman's correlation of two kernels' values over all pairs: exact where the ranks fit in memory, binned beyond.

Binned ranks take two passes. The first counts each space's values in fine bins; the second computes the pairs again
and sums the products of the mid-ranks of their bins. A mid-rank is the mean of the ranks in its bin, so each variance
loses at most sum(c^3 - c) / 12 N, known exactly from the counts c. By the Cauchy-Schwarz inequality
|error| <= e_x + e_y + e_x e_y + e_x^2 + e_y^2, with e the root of that loss over the variance of the ranks. Measured
errors are near the square of the bound, since what is lost within a bin of one space hardly depends on the other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bertft import kernels
from bertft.arrays import host, like
from bertft.kernels.types import Array, Bins
from bertft.statistics.pair_sums import clipped, undefined
from bertft.statistics.tiles import Space, sampled_values

RANKED_AS = {"sqeuclidean": "euclidean", "rbf": "euclidean"}
"""Kernels that order pairs as another one does (or in reverse, in both spaces), whose values are spread more evenly."""

EXACT_PAIRS = 20_000_000
"""Pairs up to which ranks are exact: values, ranks and the sort's scratch memory take at most about 800 MiB."""

BOUND = 1e-6
"""The largest error that `rsa` allows a binned rank correlation of values that do not tie."""

BINS = 1 << 22
CELLS = 4096


class BinnedSpearman(NamedTuple):
    """A rank correlation, and a bound on its error where values do not tie."""

    value: float
    bound: float


def spearman(x: Space, y: Space, ops: kernels.Operations) -> float:
    """Return the rank correlation with exact average ranks of all pairs, O(n^2) memory."""
    sides = []
    for name, space in (("x", x), ("y", y)):
        values = ops.pair_values(space.rows, space.link)
        if not float(values.max() - values.min()) > space.noise:
            return undefined(name)
        _snap(values, space.noise)
        ranks = ops.tied_ranks(values)
        del values
        ranks -= (len(ranks) + 1) / 2
        sides.append(ranks)
    f, g = sides
    squares = float(f @ f), float(g @ g)
    if not all(squares):  # all values are within a few rounding errors of each other
        return undefined("y" if squares[0] else "x")
    return clipped(float(f @ g) / math.sqrt(squares[0]) / math.sqrt(squares[1]))


def _snap(values: Array, noise: float) -> None:
    """Round values, in place, to a grid well above their rounding errors, so that values that tie are equal.

    The grid is the last digit of a large number, which is added and subtracted again. The shift before it keeps ties of
    round values away from the middle between two grid points.
    """
    grid = 2.0 ** math.ceil(math.log2(32 * max(noise, 1e-300)))
    values += 0.3090169943749474 * grid
    values += 1.5 * 2.0**52 * grid
    values -= 1.5 * 2.0**52 * grid


def binned_spearman(x: Space, y: Space, ops: kernels.Operations, bins: int = BINS) -> BinnedSpearman:
    """Return the rank correlation of the mid-ranks of bins with its error bound, O(n d + bins) memory."""
    tables = []
    for name, space in (("x", x), ("y", y)):
        values = sampled_values(space, ops)
        edges = quantile_bins(values, bins)
        edges = edges._replace(first=like(edges.first, space.rows.vectors))
        counts = host(ops.pair_histogram(space.rows, space.link, edges))
        if np.count_nonzero(counts) < 2:
            return BinnedSpearman(undefined(name), math.nan)
        ranks, variance, loss = mid_ranks(counts)
        tables.append((edges, like(ranks, space.rows.vectors), variance, loss))
    (x_bins, x_ranks, x_var, x_loss), (y_bins, y_ranks, y_var, y_loss) = tables
    n = len(x.rows.vectors)
    products = ops.pair_rank_products(x.rows, y.rows, x.link, y.link, x_bins, y_bins, x_ranks, y_ranks)
    value = products / (n * (n - 1) // 2) / math.sqrt(x_var * y_var)
    e_x, e_y = math.sqrt(x_loss), math.sqrt(y_loss)
    return BinnedSpearman(clipped(value), e_x + e_y + e_x * e_y + e_x * e_x + e_y * e_y)


def quantile_bins(values: Array, bins: int) -> Bins:
    """Return bins of nearly equal counts: cells of equal width, each cut into bins by its share of a sample of values.

    The cells start an irrational share of a cell early. Otherwise values of whole-number data would fall on edges,
    where rounding splits ties.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        high = low + max(abs(low), 1.0) * 1e-9
    cells = min(CELLS, bins // 16)
    cells_per_unit = (cells - 1) / (high - low)
    low -= 0.6180339887498949 / cells_per_unit
    cell = np.minimum(((values - low) * cells_per_unit).astype(np.int64), cells - 1)
    share = np.bincount(cell, minlength=cells) / len(values)
    widths = 1 + np.floor(share * (bins - cells)).astype(np.int64)
    return Bins(low, cells_per_unit, np.concatenate([[0], np.cumsum(widths)]).astype(np.int32))


def mid_ranks(counts: Array) -> tuple[Array, float, float]:
    """Return the centred mid-ranks of bins (bins,), their variance over pairs, and the share of variance bins may lose.

    Ranks are divided by the number of pairs, so that they are between -1/2 and 1/2.
    """
    total = float(counts.sum())
    below = np.cumsum(counts) - counts
    ranks = (below + (counts + 1) / 2 - (total + 1) / 2) / total
    variance = float(counts @ np.square(ranks)) / total
    shares = counts / total
    loss = max(float(np.sum(shares**3 - shares / total**2)) / 12.0, 0.0)  # of rounding, where no bin is shared
    return ranks, variance, loss / (variance + loss)
