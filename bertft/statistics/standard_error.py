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
    values = influence(moments, u, v)
    # A group's squared sum has the squares of its rows and their products; of a thinned group the rows kept estimate
    # both without bias, each scaled by how many there were of it.
    kept, sizes = np.bincount(groups), np.bincount(groups, weights=sample.weights)
    squares, sums = np.bincount(groups, weights=values**2), np.bincount(groups, weights=values)
    pairs = sizes * (sizes - 1) / np.maximum(kept * (kept - 1), 1)
    total = float((sizes / kept * squares + pairs * (sums**2 - squares)).sum())
    share = float(sizes.sum()) / moments.n  # of the rows, in the groups sampled
    return math.sqrt(total / share * count / (count - 1)) / moments.n if total > 0 else math.nan


def by_blocks(measure: Callable[[Moments], float], moments: Moments, sample: Sample) -> float:
    """The standard error of a measure from its values without each block of sampled groups, float."""
    groups = np.unique(sample.groups, return_inverse=True)[1]
    count = min(BLOCKS, int(groups.max()) + 1)
    if count < LEAST_GROUPS:
        return math.nan
    ops = kernels.select("cpu")
    centers = moments.x_center, moments.y_center
    changes, weights = np.empty(count), np.empty(count)
    for block in range(count):
        rows = groups % count == block
        x, y = (side[rows].astype(np.float64) for side in (sample.x, sample.y))
        left_out = Moments.of_batch(ops, x, y, moments.row_map, centers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, of the whole
            # less of what the block held of the whole: the change is then minus the sum of its influences over n
            changes[block] = measure(moments.without(left_out)) * (1.0 - left_out.n / moments.n)
        weights[block] = sample.weights[rows].mean()  # what a block stands for, where its groups were thinned
    share = float(sample.weights.sum()) / moments.n
    changes = (changes - changes.mean()) * weights
    return math.sqrt(float(changes @ changes) / share * count / (count - 1))
