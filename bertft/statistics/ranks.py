"""Spearman's correlation of two kernels' values over all pairs: exact where the ranks fit in memory, binned beyond.

Binned: pass one counts each space's values in fine bins, pass two visits the pairs again and sums the products of
their bins' mid-ranks.  A mid-rank is the mean of the ranks in its bin, so the variances lose sum(c^3 - c) / 12 N each
at most, known exactly from the counts c, and by Cauchy and Schwarz |error| <= e_x + e_y + e_x e_y + e_x^2 + e_y^2
with e the root of that loss over the variance of the ranks.  The error met is near the square of the bound, as what
is lost within a bin of one space is hardly related to the other.
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
"""Kernels whose order is another's (or its reverse, in both spaces alike), which spreads its values more evenly."""

EXACT_PAIRS = 20_000_000
"""Pairs up to which ranks are exact: with float64 values, ranks and the sort's scratch about 800 MiB at the most."""

BOUND = 1e-6
"""What `rsa` promises of a binned rank correlation of values that do not tie."""

BINS = 1 << 22
CELLS = 4096


class BinnedSpearman(NamedTuple):
    """A rank correlation, and a bound on its difference from the one of exact ranks where values do not tie."""

    value: float
    bound: float


def spearman(x: Space, y: Space, ops: kernels.Operations) -> float:
    """The rank correlation with exact average ranks of all pairs, O(n^2) memory."""
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
    return clipped(float(f @ g) / math.sqrt(float(f @ f)) / math.sqrt(float(g @ g)))


def _snap(values: Array, noise: float) -> None:
    """Rounds values, in place, to a grid well above their rounding errors, so that values that tie do so exactly.

    Adding and taking away a number so large that its last place is the grid does it; the shift before keeps ties of
    round values off the middle between two grid points.
    """
    grid = 2.0 ** math.ceil(math.log2(32 * max(noise, 1e-300)))
    values += 0.3090169943749474 * grid
    values += 1.5 * 2.0**52 * grid
    values -= 1.5 * 2.0**52 * grid


def binned_spearman(x: Space, y: Space, ops: kernels.Operations, bins: int = BINS) -> BinnedSpearman:
    """The rank correlation of bins' mid-ranks, O(n d + bins) memory, with its error bound."""
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
    """Bins of nearly equal counts, from a sample of values: equal cells, each cut by its share of the sample.

    The cells start an irrational share of a cell early: whole-number data would else put its ties on their edges, where
    rounding splits them.
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
    """Of bin counts: the centred mid-ranks (bins,), their variance over pairs, the share of variance bins may lose.

    Ranks are divided by the number of pairs, so that they lie within one half of 0.
    """
    total = float(counts.sum())
    below = np.cumsum(counts) - counts
    ranks = (below + (counts + 1) / 2 - (total + 1) / 2) / total
    variance = float(counts @ np.square(ranks)) / total
    shares = counts / total
    loss = float(np.sum(shares**3 - shares / total**2)) / 12.0
    return ranks, variance, loss / (variance + loss)
