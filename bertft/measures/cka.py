"""Linear centred kernel alignment from moments, biased and debiased (Kornblith et al. 2019; Song et al. 2012)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from bertft.errors import UndefinedWarning
from bertft.kernels.types import Array
from bertft.measures.covariance import covariances
from bertft.statistics.moments import Moments
from bertft.statistics.standard_error import quadratic


def cka_biased(moments: Moments) -> float:
    """Return |C|^2 / (|A| |B|) with A, B, C the covariances of x, of y and between them."""
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
    sums, ww = moments.sums, moments.sums.scalars
    s, t = sums.x_vectors[0], sums.y_vectors[0]
    fu, eu = sums.x_vectors[4], sums.x_vectors[3]
    fv, ev = sums.y_vectors[4], sums.y_vectors[3]
    e, f = ww[0, 3], ww[0, 4]
    x_total, y_total = s @ s - e, t @ t - f
    n = moments.n
    xy = _hsic(n, np.vdot(sums.xy, sums.xy) - ww[3, 4], x_total, y_total, s @ sums.xy @ t - s @ fu - t @ ev + ww[3, 4])
    xx = _hsic(n, np.vdot(sums.xx, sums.xx) - ww[3, 3], x_total, x_total, s @ sums.xx @ s - 2 * s @ eu + ww[3, 3])
    yy = _hsic(n, np.vdot(sums.yy, sums.yy) - ww[4, 4], y_total, y_total, t @ sums.yy @ t - 2 * t @ fv + ww[4, 4])
    return _ratio(xy, xx, yy)


def cka_influence(moments: Moments, u: Array, v: Array) -> Array:
    """What each row adds to CKA per unit of weight, times n; the same to first order for both estimates.

    For |C|^2 it is 2 (u C v - |C|^2) with rows centred; the ratio follows by the chain rule.
    """
    a, b, c = covariances(moments)
    u = u - moments.sums.x_vectors[0] / moments.n
    v = v - moments.sums.y_vectors[0] / moments.n
    cc, aa, bb = np.vdot(c, c), np.vdot(a, a), np.vdot(b, b)
    value = _ratio(cc, aa, bb)
    cross = quadratic(u, c, v) / cc
    own = quadratic(u, a, u) / aa + quadratic(v, b, v) / bb
    return np.asarray(value * (2.0 * cross - own))


def _hsic(n: int, trace: Any, x_total: Any, y_total: Any, both: Any) -> float:
    return float(trace + x_total * y_total / ((n - 1) * (n - 2)) - 2.0 * both / (n - 2)) / (n * (n - 3))


def _ratio(xy: Any, xx: Any, yy: Any) -> float:
    if not (xx > 0 and yy > 0):
        side = "x" if not xx > 0 else "y"
        warnings.warn(
            f"the rows of {side} do not vary, so CKA is undefined; the answer is nan", UndefinedWarning, stacklevel=3
        )
        return math.nan
    return float(xy / math.sqrt(xx) / math.sqrt(yy))
