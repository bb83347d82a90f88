"""RSA from moments: the Pearson correlation (or cosine) of two kernel matrices' strict upper triangles.

For standard errors, RSA is computed without each group of rows. Leaving a group out removes the pairs of its rows with
all rows; pairs inside the group are then subtracted once too often and are added back. The sums over the pairs of one
row are quadratic forms in the moments, O(d^2) a row, so the result is exact.

RSA is a smooth function of U-statistics of order 2. With z_f and z_g the standardised pair values, the influence of row
i is 2 mean_j [z_f z_g - (r / 2)(z_f^2 + z_g^2)] (Hoeffding 1948; van der Vaart 1998, chapter 12).
"""

from __future__ import annotations

import math

import numpy as np

from bertft.kernels.types import Array, Form
from bertft.statistics.moments import Moments
from bertft.statistics.pair_sums import PairSums, cosine, offset_weights, pearson, sums_of_moments
from bertft.statistics.standard_error import Effects, GroupRows, quadratic

COMPARISONS = {"pearson": pearson, "cosine": cosine}
"""How the five sums over pairs are compared."""


def rsa_effects(moments: Moments, form: Form, rows: GroupRows) -> Effects:
    """Return the influences of the sampled rows on RSA with Pearson's correlation, and RSA without each group."""
    n, whole = moments.n, sums_of_moments(moments, form)
    total = np.array([whole.f, whole.g, whole.ff, whole.gg, whole.fg])
    of_row, within = _sums_of_rows(moments, form, rows)
    others = n - rows.sizes
    left = total - rows.totals(of_row) + within
    without = _correlation(left / (others * (others - 1) / 2)[:, None], whole)

    f_mean, g_mean, ff, gg, _ = total / whole.pairs
    f_var, g_var = ff - f_mean**2, gg - g_mean**2
    f, g, ff, gg, fg = of_row.T / (n - 1)
    zf = (ff - 2 * f_mean * f + f_mean**2) / f_var
    zg = (gg - 2 * g_mean * g + g_mean**2) / g_var
    zfg = (fg - g_mean * f - f_mean * g + f_mean * g_mean) / math.sqrt(f_var) / math.sqrt(g_var)
    return Effects(2.0 * (zfg - 0.5 * pearson(whole) * (zf + zg)), without)


def _sums_of_rows(moments: Moments, form: Form, rows: GroupRows) -> tuple[Array, Array]:
    """Return sums of f, g, f^2, g^2 and f g: over the pairs of each row with all others, (r, 5), and over the pairs
    inside each group, (g, 5)."""
    n, sums = moments.n, moments.sums
    alpha, beta = offset_weights(form, 0), offset_weights(form, 1)
    u, v = rows.u, rows.v
    ww, s, t = sums.scalars, sums.x_vectors[0], sums.y_vectors[0]
    a_sum, b_sum = alpha @ ww[0], beta @ ww[0]
    u_m, u_s, u_as, u_bs = (u @ np.stack([moments.x_center, s, alpha @ sums.x_vectors, beta @ sums.x_vectors], 1)).T
    v_m, v_t, v_at, v_bt = (v @ np.stack([moments.y_center, t, alpha @ sums.y_vectors, beta @ sums.y_vectors], 1)).T
    x_norm, y_norm = np.einsum("id,id->i", u, u, dtype=np.float64), np.einsum("id,id->i", v, v, dtype=np.float64)
    w = np.stack([np.ones(len(u)), u_m, v_m, x_norm, y_norm], axis=1)
    a, b = w @ alpha, w @ beta
    f_self, g_self = 2 * a + x_norm, 2 * b + y_norm
    of_row = np.stack(
        [
            n * a + a_sum + u_s - f_self,
            n * b + b_sum + v_t - g_self,
            n * a * a + alpha @ ww @ alpha + 2 * a * (a_sum + u_s) + 2 * u_as + quadratic(u, sums.xx, u) - f_self**2,
            n * b * b + beta @ ww @ beta + 2 * b * (b_sum + v_t) + 2 * v_bt + quadratic(v, sums.yy, v) - g_self**2,
            n * a * b + alpha @ ww @ beta + a * (b_sum + v_t) + b * (a_sum + u_s) + u_bs + v_at
            + quadratic(u, sums.xy, v) - f_self * g_self,
        ],
        axis=1,
    )  # fmt: skip
    return of_row, rows.within(a, b)


def _correlation(means: Array, whole: PairSums) -> Array:
    """Return Pearson's correlation from means of f, g, f^2, g^2 and f g, (g, 5); nan where f or g is constant."""
    f, g, ff, gg, fg = means.T
    x_var, y_var = ff - f * f, gg - g * g
    varies = (x_var > whole.x_noise**2) & (y_var > whole.y_noise**2)
    scale = np.sqrt(np.where(varies, x_var, math.nan)) * np.sqrt(np.where(varies, y_var, math.nan))
    return np.asarray((fg - f * g) / scale)
