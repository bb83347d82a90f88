"""The five sums over pairs i < j of two kernels' values, and the correlations computed from them."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from bertft.errors import UndefinedWarning
from bertft.kernels.types import Form
from bertft.statistics.moments import Moments
from bertft.statistics.off_diagonal import SIDES


class PairSums(NamedTuple):
    """Sums over pairs of f, g, f^2, g^2 and f g, where the kernels' values are f + x_shift and g + y_shift.

    A side whose values have a standard deviation below `x_noise` or `y_noise` is constant up to rounding errors.
    """

    pairs: int
    f: float
    g: float
    ff: float
    gg: float
    fg: float
    x_shift: float = 0.0
    y_shift: float = 0.0
    x_noise: float = 0.0
    y_noise: float = 0.0


def noise_of(center_square: float, mean_square: float, form: Form) -> float:
    """Return the rounding error of one pair's value in float64, from |m|^2 and the mean |u|^2 of shifted rows."""
    return 1e-13 * mean_square + (1e-14 if form == "dot" else 1e-28) * center_square


def offset_weights(form: Form, side: int) -> np.ndarray:
    """Return the coefficients of a row's offset on w = (1, a, b, e, f): a or b (dot), -e/2 or -f/2 (distance)."""
    weights = np.zeros(5)
    weights[1 + side if form == "dot" else 3 + side] = 1.0 if form == "dot" else -0.5
    return weights


def sums_of_moments(moments: Moments, form: Form) -> PairSums:
    """Return the five sums from the moments: those of the full square of pairs, less the diagonal, halved."""
    n, sums = moments.n, moments.sums
    alpha, beta = offset_weights(form, 0), offset_weights(form, 1)  # the offset of x_i and of y_i, from w_i
    f_diagonal, g_diagonal = 2 * alpha, 2 * beta  # a row's pair with itself: twice the offset, plus |u|^2
    f_diagonal[3] += 1.0
    g_diagonal[4] += 1.0
    ww, s, t = sums.scalars, sums.x_vectors[0], sums.y_vectors[0]
    a, b = alpha @ ww[0], beta @ ww[0]
    f = 2 * n * a + s @ s - f_diagonal @ ww[0]
    g = 2 * n * b + t @ t - g_diagonal @ ww[0]
    ff = 2 * n * (alpha @ ww @ alpha) + 2 * a * a + 4 * (alpha @ sums.x_vectors @ s) + np.vdot(sums.xx, sums.xx)
    gg = 2 * n * (beta @ ww @ beta) + 2 * b * b + 4 * (beta @ sums.y_vectors @ t) + np.vdot(sums.yy, sums.yy)
    fg = 2 * n * (alpha @ ww @ beta) + 2 * a * b + np.vdot(sums.xy, sums.xy)
    fg += 2 * (alpha @ sums.y_vectors @ t) + 2 * (beta @ sums.x_vectors @ s)
    if moments.off_diagonal is None:
        ff -= f_diagonal @ ww @ f_diagonal
        gg -= g_diagonal @ ww @ g_diagonal
        fg -= f_diagonal @ ww @ g_diagonal
    else:
        ff, fg, gg = _squares_apart(moments, alpha, beta)
    x_square, y_square = float(moments.x_center @ moments.x_center), float(moments.y_center @ moments.y_center)
    shifts = (x_square, y_square) if form == "dot" else (0.0, 0.0)
    noises = (noise_of(x_square, ww[0, 3] / n, form), noise_of(y_square, ww[0, 4] / n, form))
    f, g, ff, gg, fg = (float(total) / 2 for total in (f, g, ff, gg, fg))
    return PairSums(n * (n - 1) // 2, f, g, ff, gg, fg, *shifts, *noises)


def _squares_apart(moments: Moments, alpha: np.ndarray, beta: np.ndarray) -> list[float]:
    """Return the sums over i other than j of f^2, f g and g^2, from sums over pairs of different rows."""
    n, ww, squares = moments.n, moments.sums.scalars, moments.off_diagonal
    assert squares is not None
    vectors, offsets, found = (moments.sums.x_vectors, moments.sums.y_vectors), (alpha, beta), []
    for product, (one, other) in zip(squares[0], SIDES, strict=True):
        a, b, s, t = offsets[one], offsets[other], vectors[one][0], vectors[other][0]
        total = product + 2.0 * (n - 2) * (a @ ww @ b) + 2.0 * (a @ ww[0]) * (b @ ww[0])
        total += 2.0 * (a @ vectors[other] @ t - a @ ww[:, 3 + other])
        total += 2.0 * (b @ vectors[one] @ s - b @ ww[:, 3 + one])
        found.append(float(total))
    return found


def pearson(sums: PairSums) -> float:
    """Return Pearson's correlation of the two sides; nan, with an `UndefinedWarning`, where one of them is constant."""
    n = sums.pairs
    x_var = sums.ff / n - (sums.f / n) ** 2
    y_var = sums.gg / n - (sums.g / n) ** 2
    if not (x_var > sums.x_noise**2 and y_var > sums.y_noise**2):
        return undefined("x" if not x_var > sums.x_noise**2 else "y")
    covariance = sums.fg / n - (sums.f / n) * (sums.g / n)
    return clipped(covariance / math.sqrt(x_var) / math.sqrt(y_var))


def cosine(sums: PairSums) -> float:
    """Return the cosine of the two sides' values, without subtracting their means."""
    n, p, q = sums.pairs, sums.x_shift, sums.y_shift
    ff = sums.ff + 2 * p * sums.f + n * p * p
    gg = sums.gg + 2 * q * sums.g + n * q * q
    fg = sums.fg + p * sums.g + q * sums.f + n * p * q
    if not (ff > n * sums.x_noise**2 and gg > n * sums.y_noise**2):
        return undefined("x" if not ff > n * sums.x_noise**2 else "y")
    return clipped(fg / math.sqrt(ff) / math.sqrt(gg))


def undefined(side: str) -> float:
    """Return nan, with a warning that all values of a side are the same."""
    message = f"all pairs of {side} have the same kernel value, so no correlation with it exists; the answer is nan"
    warnings.warn(message, UndefinedWarning, stacklevel=2)
    return math.nan


def clipped(value: float) -> float:
    """Return the value limited to -1 and 1: rounding may exceed 1 by a little, and a caller may take an arc cosine."""
    return min(1.0, max(-1.0, float(value)))
