"""Procrustes similarity from moments: how well a rotation of one centred space fits the other (Schönemann 1966)."""

from __future__ import annotations

import math
import warnings

import numpy as np

from bertft.errors import UndefinedWarning
from bertft.measures.covariance import constant_side, covariances
from bertft.statistics.moments import Moments
from bertft.statistics.standard_error import Effects, GroupRows


def procrustes(moments: Moments) -> float:
    """Return |C|_* / sqrt(tr A tr B), the nuclear norm of the cross-covariance over the spreads of both spaces.

    It is 1 for a scaled rotation. For a similarity s, 2 (1 - s) is the squared orthogonal Procrustes distance of the
    normalised spaces (Ding et al. 2021).
    """
    if (side := constant_side(moments)) is not None:
        warnings.warn(
            f"the rows of {side} do not vary, so Procrustes is undefined; the answer is nan",
            UndefinedWarning,
            stacklevel=3,
        )
        return math.nan
    a, b, c = covariances(moments)
    spread = math.sqrt(np.trace(a)) * math.sqrt(np.trace(b))
    return min(1.0, float(np.linalg.svd(c, compute_uv=False).sum() / spread))


def procrustes_effects(moments: Moments, rows: GroupRows) -> Effects:
    """Return the influences of the sampled rows on the similarity.

    They follow from the gradient of the nuclear norm of C = L S R^T, which is L R^T.
    """
    a, b, c = covariances(moments)
    u = rows.u - moments.sums.x_vectors[0] / moments.n
    v = rows.v - moments.sums.y_vectors[0] / moments.n
    left, values, right = np.linalg.svd(c, full_matrices=False)
    value = values.sum() / math.sqrt(np.trace(a)) / math.sqrt(np.trace(b))
    cross = np.einsum("id,id->i", u @ left, v @ right.T) / values.sum()
    own = np.einsum("id,id->i", u, u) / np.trace(a) + np.einsum("id,id->i", v, v) / np.trace(b)
    return Effects(value * (cross - 0.5 * own))
