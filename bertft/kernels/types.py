"""The arguments and results of kernels: plain tuples of arrays and numbers, the same for all backends.

The value of a pair: each kernel maps a row x_i to a shifted row u_i = map(x_i) - center and an offset, such that

    g_ij = offset_i + offset_j + u_i . u_j

is the kernel's value up to a constant and a link. For the *dot* form the offset is center . u_i and g_ij = k_ij -
|center|^2; for the *distance* form it is -|u_i|^2 / 2 and g_ij = -|x_i - x_j|^2 / 2. Shifting first keeps the digits
when all cosines are near 1. `Link` then turns g_ij into the value that is compared.

Arrays are NumPy on the CPU and torch on a GPU; a backend returns the kind it was given.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from bertft.arrays import CONSTANT as CONSTANT

Array = Any
"""A NumPy array or a torch tensor; kernels never mix the two."""

RowMap = Literal["raw", "unit", "centred_unit"]
"""raw: x. unit: x / |x|. centred_unit: (x - mean(x)) / |x - mean(x)|, whose dot products are correlations of rows."""

LENGTHS = (1e-120, 1e120)
"""Between these lengths, the squares of a row's numbers keep their digits in float64. Under the unit maps a row of
another length has no value: `bertft.statistics.scaling` multiplies it by a power of two first."""

Form = Literal["dot", "distance"]
LinkName = Literal["identity", "euclidean", "rbf"]


class Rows(NamedTuple):
    """The shifted rows of one space: `vectors` (n, d) in the compute type, `offsets` (n,) float64.

    A row that has no value under its map has a nan offset: one that is not finite, or whose length, by which it is
    divided, is zero or beyond `LENGTHS`.
    """

    vectors: Array
    offsets: Array


class Link(NamedTuple):
    """The value compared, from g: identity g, euclidean sqrt(-2 g), rbf exp(2 gamma g); then `center` is subtracted."""

    name: LinkName = "identity"
    gamma: float = 1.0
    center: float = 0.0


class Bins(NamedTuple):
    """A monotone map from value to bin: cells of equal width on [low, high), each cut evenly into bins.

    t = clip((value - low) * cells_per_unit, 0, cells), cell c = min(floor(t), cells - 1), bin = first[c] +
    min(floor((t - c) * w), w - 1) with w = first[c + 1] - first[c] >= 1. Values outside go to the first or last bin.
    """

    low: float
    cells_per_unit: float
    first: Array  # int32 [cells + 1]; first[-1] is the number of bins


class MomentSums(NamedTuple):
    """Sums over the rows of a batch, all float64, with w_i = (1, a_i, b_i, e_i, f_i) the scalars of row i:
    a = x_center . u, b = y_center . v, e = |u|^2, f = |v|^2."""

    scalars: Array  # sum of w w^T, [5, 5]
    x_vectors: Array  # sum of w u^T, [5, d1]
    y_vectors: Array  # sum of w v^T, [5, d2]
    xx: Array  # sum of u u^T, [d1, d1]
    xy: Array  # sum of u v^T, [d1, d2]
    yy: Array  # sum of v v^T, [d2, d2]
