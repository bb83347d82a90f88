"""Canonical correlations from moments: their mean (CCA), on leading components (SVCCA), and weighted (PWCCA).

CCA: Hotelling 1936. SVCCA: Raghu et al. 2017. PWCCA: Morcos et al. 2018. The inverses need float64 products, which
`bertft.measures` asks for.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from bertft.errors import PrecisionWarning, UndefinedWarning
from bertft.kernels.types import Array
from bertft.measures.covariance import constant_side, covariances, whiten
from bertft.statistics.moments import Moments

SVCCA_SHARE = 0.99
"""Share of each space's variance that the components kept by SVCCA hold (Raghu et al. 2017)."""


class Canonical(NamedTuple):
    """Correlations (k,), largest first, with the map from centred rows of x to its canonical variates, (d1, k)."""

    correlations: Array
    x_map: Array


def canonical(moments: Moments, share: float = 1.0) -> Canonical | None:
    """Return the canonical correlations of the two spaces, or None, with a warning, where one of them is constant."""
    if (side := constant_side(moments)) is not None:
        message = f"the rows of {side} do not vary, so no canonical correlation exists; the answer is nan"
        warnings.warn(message, UndefinedWarning, stacklevel=4)
        return None
    a, b, c = covariances(moments)
    whitened = whiten(a, share), whiten(b, share)
    x_white, y_white = (space.matrix for space in whitened)
    for name, space in zip("xy", whitened, strict=True):
        if share == 1.0 and space.left_out:
            message = (
                f"{space.left_out} components of {name} have less than 1e-10 of the variance of the largest and are "
                "left out of the canonical correlations; divide long rows or wide columns by a constant, or use svcca"
            )
            warnings.warn(message, PrecisionWarning, stacklevel=4)
    if moments.n <= x_white.shape[1] + y_white.shape[1]:
        message = (
            f"{moments.n} rows for {x_white.shape[1]} + {y_white.shape[1]} dimensions: "
            "canonical correlations are then close to 1 for any spaces; "
            "give at least several times as many rows as dimensions, or use cka"
        )
        warnings.warn(message, PrecisionWarning, stacklevel=4)
    left, correlations, _ = np.linalg.svd(x_white.T @ c @ y_white, full_matrices=False)
    return Canonical(np.clip(correlations, 0.0, 1.0), x_white @ left)


def cca(moments: Moments) -> float:
    """Return the mean canonical correlation."""
    found = canonical(moments)
    return math.nan if found is None else float(found.correlations.mean())


def svcca(moments: Moments) -> float:
    """Return the mean canonical correlation of the components that hold 99 % of each space's variance."""
    found = canonical(moments, SVCCA_SHARE)
    return math.nan if found is None else float(found.correlations.mean())


def pwcca(moments: Moments) -> float:
    """Return the mean canonical correlation, weighted by how much of x each variate accounts for: sum_j |<h, x_j>|."""
    found = canonical(moments)
    if found is None:
        return math.nan
    weights = np.abs(found.x_map.T @ covariances(moments)[0]).sum(axis=1)
    return float(weights @ found.correlations / weights.sum())
