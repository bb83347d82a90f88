"""Linear centred kernel alignment from moments, biased and debiased (Kornblith et al. 2019; Song et al. 2012)."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from bertft.errors import UndefinedWarning
from bertft.kernels.types import Array
from bertft.measures.covariance import constant_side, covariances
from bertft.statistics.moments import Moments
from bertft.statistics.standard_error import Effects, GroupRows, quadratic


def cka_biased(moments: Moments) -> float:
    """Return |C|^2 / (|A| |B|) with A, B, C the covariances of x, of y and between them."""
    if (side := constant_side(moments)) is not None:
        return _undefined(side)
    a, b, c = covariances(moments)
    return _ratio(np.vdot(c, c), np.vdot(a, a), np.vdot(b, b))


def cka_debiased(moments: Moments) -> float:
    """Return the same ratio of unbiased estimates of HSIC, which does not grow with columns and may be below 0.

    The unbiased estimate of Song et al. (2012, equation 5) sets both diagonals to 0; in moments, with e_i = |u_i|^2 and
    f_i = |v_i|^2: tr(KL) = |C|^2 - sum e f,  1K1 = |s|^2 - sum e,  1KL1 = s C t - s.sum f u - t.sum e v + sum e f.
    """
    if moments.n < 4:
        warnings.warn(
            f"debiased CKA needs at least 4 rows, got {moments.n}; the answer is nan", UndefinedWarning, stacklevel=2
        )
        return math.nan
    if (side := constant_side(moments)) is not None:
        return _undefined(side)
    sums, ww = moments.sums, moments.sums.scalars
    s, t = sums.x_vectors[0], sums.y_vectors[0]
    fu, eu = sums.x_vectors[4], sums.x_vectors[3]
    fv, ev = sums.y_vectors[4], sums.y_vectors[3]
    e, f = ww[0, 3], ww[0, 4]
    x_total, y_total = s @ s - e, t @ t - f
    n = moments.n
    if moments.off_diagonal is not None:
        (p_xx, p_xy, p_yy), (q_xx, q_xy, q_yy) = moments.off_diagonal.tolist()
        return _ratio(
            _hsic(n, p_xy, x_total, y_total, q_xy),
            _hsic(n, p_xx, x_total, x_total, q_xx),
            _hsic(n, p_yy, y_total, y_total, q_yy),
        )
    xy = _hsic(n, np.vdot(sums.xy, sums.xy) - ww[3, 4], x_total, y_total, s @ sums.xy @ t - s @ fu - t @ ev + ww[3, 4])
    xx = _hsic(n, np.vdot(sums.xx, sums.xx) - ww[3, 3], x_total, x_total, s @ sums.xx @ s - 2 * s @ eu + ww[3, 3])
    yy = _hsic(n, np.vdot(sums.yy, sums.yy) - ww[4, 4], y_total, y_total, t @ sums.yy @ t - 2 * t @ fv + ww[4, 4])
    return _ratio(xy, xx, yy)


def cka_effects(moments: Moments, rows: GroupRows, *, debiased: bool) -> Effects:
    """Return the influences of the sampled rows on CKA, and CKA without each group.

    The influence of a centred row on |C|^2 is 2 (u C v - |C|^2). That on the ratio follows by the chain rule, and is
    the same to first order for both estimates.
    """
    x, y = (_side(moments, rows, number) for number in (0, 1))
    # Sums of f g inside each group. Both orders of a pair are counted; the pairs of a row with itself are added below.
    _, _, xx, yy, xy = 2.0 * rows.within().T
    (aa, a_rows, aa_left), (bb, b_rows, bb_left), (cc, c_rows, cc_left) = (
        _square(moments, rows, one, other, inside + rows.totals(one.norms * other.norms), debiased=debiased)
        for one, other, inside in ((x, x, xx), (y, y, yy), (x, y, xy))
    )
    varies = (aa_left > 0) & (bb_left > 0)
    scale = np.sqrt(np.where(varies, aa_left, math.nan)) * np.sqrt(np.where(varies, bb_left, math.nan))
    influence = cc / math.sqrt(aa) / math.sqrt(bb) * (2.0 * c_rows / cc - a_rows / aa - b_rows / bb)
    return Effects(influence, cc_left / scale)


class _Side(NamedTuple):
    """One of the two spaces: `number` is 0 for x and 1 for y, `vectors` are its sums of w u^T, see `MomentSums`."""

    number: int
    rows: Array  # (r, d)
    norms: Array  # |u|^2 of each row, (r,)
    vectors: Array
    left: Array  # the sum of all rows outside each group, (g, d)
    dots: Array  # the dot product of each row with `left` of its group, (r,)


def _side(moments: Moments, rows: GroupRows, number: int) -> _Side:
    side, vectors = (rows.u, rows.v)[number], (moments.sums.x_vectors, moments.sums.y_vectors)[number]
    left = vectors[0] - rows.totals(side)
    norms, dots = (np.einsum("id,id->i", side, other, dtype=np.float64) for other in (side, rows.spread(left)))
    return _Side(number, side, norms, vectors, left, dots)


def _square(
    moments: Moments, rows: GroupRows, x: _Side, y: _Side, inside: Array, *, debiased: bool
) -> tuple[float, Array, Array]:
    """Return |C|^2 with C the covariance of two sides, u C v of every centred row, (r,), and |C|^2 estimated without
    each group, (g,)."""
    n, others = moments.n, moments.n - rows.sizes
    product = (moments.sums.xx, moments.sums.xy, moments.sums.yy)[x.number + y.number]
    s, t = x.vectors[0], y.vectors[0]
    square, total = float(np.vdot(product, product)), float(s @ product @ t)
    forms = quadratic(x.rows, product, y.rows)
    centred = (forms - (x.rows @ (product @ t) + y.rows @ (s @ product)) / n + total / n**2) / n
    centred -= (x.rows @ s - s @ s / n) * (y.rows @ t - t @ t / n) / n**2
    value = (square - 2.0 * total / n + (s @ s) * (t @ t) / n**2) / n**2

    square_left = square - 2.0 * rows.totals(forms) + inside
    total_left = quadratic(x.left, product, y.left) - rows.totals(x.dots * y.dots)
    ss_left, tt_left = (np.einsum("gd,gd->g", side.left, side.left) for side in (x, y))
    if not debiased:
        return value, centred, (square_left - 2.0 * total_left / others + ss_left * tt_left / others**2) / others**2
    ww, (e, f) = moments.sums.scalars, (3 + x.number, 3 + y.number)
    diagonal = ww[e, f] - rows.totals(x.norms * y.norms)
    total_left -= x.left @ x.vectors[f] - rows.totals(y.norms * x.dots)
    total_left -= y.left @ y.vectors[e] - rows.totals(x.norms * y.dots)
    x_total, y_total = ss_left - ww[0, e] + rows.totals(x.norms), tt_left - ww[0, f] + rows.totals(y.norms)
    return value, centred, _hsic(others, square_left - diagonal, x_total, y_total, total_left + diagonal)


def _hsic(n: Any, trace: Any, x_total: Any, y_total: Any, both: Any) -> Any:
    return (trace + x_total * y_total / ((n - 1) * (n - 2)) - 2.0 * both / (n - 2)) / (n * (n - 3))


def _ratio(xy: Any, xx: Any, yy: Any) -> float:
    if not (xx > 0 and yy > 0):
        side = "x" if not xx > 0 else "y"
        message = f"the pairs of different rows of {side} do not vary, so CKA is undefined; the answer is nan"
        warnings.warn(message, UndefinedWarning, stacklevel=3)
        return math.nan
    return float(xy / math.sqrt(xx) / math.sqrt(yy))


def _undefined(side: str) -> float:
    """Return nan, with a warning that all rows of a side are the same."""
    message = f"the rows of {side} do not vary, so CKA is undefined; the answer is nan"
    warnings.warn(message, UndefinedWarning, stacklevel=4)
    return math.nan
