"""Standard errors from a sample of whole groups of rows: rows of one sentence are not independent, sentences are.

by_influence: the squares of the groups' summed influences (the infinitesimal jackknife, cluster-robust).
by_blocks: the same for measures without a closed influence, by leaving out each of twenty blocks of groups.
Both find the variance among the groups sampled and scale it to all rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np

from bertft import kernels
from bertft.kernels.types import Array
from bertft.statistics.moments import Moments
from bertft.statistics.reservoir import Sample

BLOCKS = 20
LEAST_GROUPS = 10
"""Fewer groups than this say too little about their spread: the standard error is nan."""


def quadratic(left: Array, matrix: Array, right: Array) -> Array:
    """left_i matrix right_i for each row i, (rows,) float64, by float32 products: finer than an error is known."""
    scales = [float(np.abs(part).max()) or 1.0 for part in (left, matrix)]
    product = (left / scales[0]).astype(np.float32) @ (matrix / scales[1]).astype(np.float32)
    return np.asarray(np.einsum("id,id->i", product, right) * scales[0] * scales[1])


def by_influence(influence: Callable[[Moments, Array, Array], Array], moments: Moments, sample: Sample) -> float:
    """The standard error of a measure from the influences of the sampled rows, float."""
    groups = np.unique(sample.groups, return_inverse=True)[1]
    count = int(groups.max()) + 1
    if count < LEAST_GROUPS:
        return math.nan
    ops = kernels.select("cpu")
    u, v = (
        ops.shifted_rows(side.astype(np.float64), center, moments.row_map, "dot").vectors
        for side, center in ((sample.x, moments.x_center), (sample.y, moments.y_center))
    )
    summed = np.bincount(groups, weights=influence(moments, u, v))
    share = len(groups) / moments.n  # of the rows, in the sample
    return math.sqrt(float(summed @ summed) / share * count / (count - 1)) / moments.n


def by_blocks(measure: Callable[[Moments], float], moments: Moments, sample: Sample) -> float:
    """The standard error of a measure from its values without each block of sampled groups, float."""
    groups = np.unique(sample.groups, return_inverse=True)[1]
    count = min(BLOCKS, int(groups.max()) + 1)
    if count < LEAST_GROUPS:
        return math.nan
    ops = kernels.select("cpu")
    centers = moments.x_center, moments.y_center
    changes = np.empty(count)
    for block in range(count):
        rows = groups % count == block
        x, y = (side[rows].astype(np.float64) for side in (sample.x, sample.y))
        left_out = Moments.of_batch(ops, x, y, moments.row_map, centers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, of the whole
            # less of what the block held of the whole: the change is then minus the sum of its influences over n
            changes[block] = measure(moments.without(left_out)) * (1.0 - left_out.n / moments.n)
    share = len(groups) / moments.n
    return math.sqrt(float(np.square(changes - changes.mean()).sum()) / share * count / (count - 1))
