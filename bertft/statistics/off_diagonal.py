"""Sums over pairs of different rows, kept apart where pairs of a row with itself would take their digits.

With k_ij = u_i.u_j and l_ij = v_i.v_j, RSA and debiased CKA need P = sum of k_ij l_ij and Q = sum over i of k_i l_i,
k_i = sum of k_ij, all over j other than i. From moments, P = |C|^2 - sum e f. If one row is much longer than the others
the two are nearly equal: with a row a million times longer, their difference has four correct digits in float64. Then P
and Q are computed from the pairs themselves, in float64, and carried along as batches are added and centers move. No
term of these formulas is much larger than the result.

P and Q are (2, 3) float64: a row for each, and columns for (x, x), (x, y) and (y, y).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bertft.kernels.types import Array, MomentSums

SIDES = ((0, 0), (0, 1), (1, 1))
"""The two spaces of each column: 0 is x and 1 is y."""


class _Pair(NamedTuple):
    """The sums that a column needs, with u and v the rows of its two spaces."""

    s: Array  # sum of u
    t: Array  # sum of v
    product: Array  # sum of u v^T
    k_v: Array  # sum of k_i v_i
    l_u: Array  # sum of l_i u_i
    e_v: Array  # sum of |u_i|^2 v_i
    k_sum: float
    l_sum: float
    diagonal: float  # sum of |u_i|^2 |v_i|^2


def _pair(sums: MomentSums, one: int, other: int) -> _Pair:
    vectors, ww = (sums.x_vectors, sums.y_vectors), sums.scalars
    product = (sums.xx, sums.xy, sums.yy)[one + other]
    s, t = vectors[one][0], vectors[other][0]
    e_v = vectors[other][3 + one]
    l_u = product @ t - vectors[one][3 + other]
    k_sum, l_sum = float(s @ s - ww[0, 3 + one]), float(t @ t - ww[0, 3 + other])
    return _Pair(s, t, product, product.T @ s - e_v, l_u, e_v, k_sum, l_sum, float(ww[3 + one, 3 + other]))


def of_rows(u: Array, v: Array) -> Array:
    """Return P and Q of shifted rows u (n, d1) and v (n, d2), float64, from all pairs; O(n^2) memory."""
    grams = []
    for rows in (u, v):
        gram = rows @ rows.T
        np.fill_diagonal(gram, 0.0)
        grams.append(gram)
    totals = [gram.sum(axis=1) for gram in grams]
    return np.array(
        [
            [float(np.vdot(grams[one], grams[other])) for one, other in SIDES],
            [float(totals[one] @ totals[other]) for one, other in SIDES],
        ]
    )


def of_sums(sums: MomentSums) -> Array:
    """Return P and Q of moments, NumPy: differences of large numbers where a row is long."""
    pairs = [_pair(sums, *sides) for sides in SIDES]
    return np.array(
        [
            [float(np.vdot(pair.product, pair.product)) - pair.diagonal for pair in pairs],
            [float(pair.s @ pair.l_u - pair.t @ pair.e_v) + pair.diagonal for pair in pairs],
        ]
    )


def of_both(left: Array, left_sums: MomentSums, right: Array, right_sums: MomentSums) -> Array:
    """Return P and Q of the rows of two moments about the same centers, from those of each."""
    total = left + right
    for column, sides in enumerate(SIDES):
        one, other = _pair(left_sums, *sides), _pair(right_sums, *sides)
        total[0, column] += 2.0 * float(np.vdot(one.product, other.product))
        for here, there in ((one, other), (other, one)):
            total[1, column] += float(here.k_v @ there.t + here.l_u @ there.s + there.s @ here.product @ there.t)
    return total


def moved(values: Array, sums: MomentSums, n: int, dx: Array, dy: Array) -> Array:
    """Return P and Q of n rows after dx is added to all u and dy to all v, from P, Q and the moments before."""
    result = values.copy()
    for column, (one, other) in enumerate(SIDES):
        pair, d, e = _pair(sums, one, other), (dx, dy)[one], (dx, dy)[other]
        x, y, both = float(d @ pair.s), float(e @ pair.t), float(d @ pair.product @ e)
        k_y, l_x, dd, ee = float(e @ pair.k_v), float(d @ pair.l_u), float(d @ d), float(e @ e)
        # k_ij becomes k_ij + d.u_i + d.u_j + d.d
        result[0, column] += (
            2.0 * (k_y + l_x) + ee * pair.k_sum + dd * pair.l_sum + 2.0 * ((n - 2) * both + x * y)
            + 2.0 * (n - 1) * (x * ee + y * dd) + n * (n - 1) * dd * ee
        )  # fmt: skip
        # k_i becomes k_i + (n - 2) d.u_i + a, l_i becomes l_i + (n - 2) e.v_i + b
        a, b = x + (n - 1) * dd, y + (n - 1) * ee
        result[1, column] += (
            (n - 2) * (k_y + l_x + (n - 2) * both + b * x + a * y) + b * pair.k_sum + a * pair.l_sum + n * a * b
        )
    return result
