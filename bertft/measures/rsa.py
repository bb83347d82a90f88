"""RSA from moments: the Pearson correlation (or cosine) of two kernel matrices' strict upper triangles.

Influence of a row (for standard errors): with z_f and z_g the standardised pair values, RSA is a smooth function of
U-statistics of order 2 and row i pulls it by 2 mean_j [z_f z_g - (r / 2)(z_f^2 + z_g^2)] (Hoeffding 1948; van der
Vaart 1998, chapter 12). The row sums it needs are quadratic forms in the moments, O(d^2) a row.
"""

from __future__ import annotations

import math

import numpy as np

from bertft.kernels.types import Array, Form
from bertft.statistics.moments import Moments
from bertft.statistics.pair_sums import cosine, offset_weights, pearson, sums_of_moments
from bertft.statistics.standard_error import quadratic

COMPARISONS = {"pearson": pearson, "cosine": cosine}
"""How the five sums over pairs are compared."""


def rsa_influence(moments: Moments, form: Form, u: Array, v: Array) -> Array:
    """What each row, given shifted as u (rows, d1) and v (rows, d2), adds to RSA per unit of weight, times n."""
    n, sums = moments.n, moments.sums
    alpha, beta = offset_weights(form, 0), offset_weights(form, 1)
    total = sums_of_moments(moments, form)
    pairs = total.pairs
    f_mean, g_mean = total.f / pairs, total.g / pairs
    f_var, g_var = total.ff / pairs - f_mean**2, total.gg / pairs - g_mean**2
    f_noise, g_noise = total.x_noise, total.y_noise
    if not (f_var > f_noise**2 and g_var > g_noise**2):
        return np.full(len(u), math.nan)

    x_norm, y_norm = np.einsum("id,id->i", u, u), np.einsum("id,id->i", v, v)
    w = np.stack([np.ones(len(u)), u @ moments.x_center, v @ moments.y_center, x_norm, y_norm], axis=1)
    a, b = w @ alpha, w @ beta
    f_self, g_self = 2 * a + x_norm, 2 * b + y_norm
    ww, s, t = sums.scalars, sums.x_vectors[0], sums.y_vectors[0]
    a_sum, b_sum = alpha @ ww[0], beta @ ww[0]
    u_s, v_t = u @ s, v @ t
    # sums over j of f_ij, g_ij, f_ij^2, g_ij^2 and f_ij g_ij, less j = i
    f = n * a + a_sum + u_s - f_self
    g = n * b + b_sum + v_t - g_self
    ff = n * a * a + alpha @ ww @ alpha + 2 * a * a_sum + 2 * a * u_s + 2 * (u @ (alpha @ sums.x_vectors)) - f_self**2
    ff += quadratic(u, sums.xx, u)
    gg = n * b * b + beta @ ww @ beta + 2 * b * b_sum + 2 * b * v_t + 2 * (v @ (beta @ sums.y_vectors)) - g_self**2
    gg += quadratic(v, sums.yy, v)
    fg = n * a * b + a * b_sum + b * a_sum + alpha @ ww @ beta + a * v_t + b * u_s - f_self * g_self
    fg += u @ (beta @ sums.x_vectors) + v @ (alpha @ sums.y_vectors) + quadratic(u, sums.xy, v)

    others = n - 1
    zf = (ff - 2 * f_mean * f + others * f_mean**2) / others / f_var
    zg = (gg - 2 * g_mean * g + others * g_mean**2) / others / g_var
    zfg = (fg - g_mean * f - f_mean * g + others * f_mean * g_mean) / others / math.sqrt(f_var) / math.sqrt(g_var)
    r = pearson(total)
    return np.asarray(2.0 * (zfg - 0.5 * r * (zf + zg)))
