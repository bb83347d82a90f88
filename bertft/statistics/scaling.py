"""Scales taken out first, so that a measure which does not depend on the scale is computed as if it were ordinary.

Sums over rows hold fourth powers of the numbers in them, and products may run in float32. Rows beyond the ranges below
are multiplied by a power of two, which changes no digit, and their products run in float64: under the raw map by one
power for the whole space, under the unit maps by one for each row. Within the ranges nothing is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bertft.arrays import as_double, host, is_double
from bertft.kernels.types import LENGTHS, Array, RowMap


class Range(NamedTuple):
    """Root mean square distances of rows from their center, from least to most."""

    least: float
    most: float


SINGLE = Range(2.0**-30, 2.0**30)
"""Products of such rows keep their digits in float32, also those of entries a million times smaller."""

DOUBLE = Range(2.0**-200, 2.0**200)
"""Sums of fourth powers of such rows keep their digits in float64, also over 2^60 rows."""

CONSTANT_SHARE = 1e-13
"""Rows do not vary if their variance is below this share of their mean square about the center: rounding errors."""

EXTREME = 100
"""Rows are scaled if the exponent of their largest number is beyond this."""


def inside(mean_square: float, limits: Range) -> bool:
    """Return whether rows of this mean squared distance are in a range."""
    return bool(limits.least**2 <= mean_square <= limits.most**2)


def varies(mean_square: float, mean: np.ndarray) -> bool:
    """Return whether rows vary, from the mean and the mean square of shifted rows, which rounding errors have too."""
    return mean_square - float(mean @ mean) > CONSTANT_SHARE * mean_square


def exponent_of(batches: Iterable[Array]) -> int:
    """Return the exponent e of the largest number, which in size is below 2^e and at least half of it; 0 for zeros."""
    largest = 0.0
    for rows in batches:
        largest = max(largest, float(abs(rows).max()) if len(rows) else 0.0)
    return int(np.frexp(largest)[1])


def extreme_exponent(batches: Iterable[Array]) -> int:
    """Return the exponent of the largest number where it is extreme, else 0, which leaves the rows as they are."""
    exponent = exponent_of(batches)
    return exponent if abs(exponent) > EXTREME else 0


def too_close(side: str) -> str:
    """Return the message about rows whose distances vanish beside their numbers, under the raw map."""
    return (
        f"the rows of {side} differ by less than {DOUBLE.least:.0e} of the largest number in them, which is beyond the "
        "range of sums in float64; subtract the mean of each column first"
    )


def vary(batches: Iterable[Array]) -> bool:
    """Return whether any two rows differ."""
    first = None
    for rows in batches:
        first = rows[:1] if first is None else first
        if bool((rows != first).any()):
            return True
    return False


def scaled(array: Array, exponent: int) -> Array:
    """Return array / 2^exponent in float64; the array itself where the exponent is 0."""
    return array if exponent == 0 else _times_power(as_double(array), np.array(-exponent))


def with_ordinary_rows(batch: Array) -> Array:
    """Return a batch with each row of extreme length multiplied by a power of two of its own, for the unit maps.

    Only rows of float64 have such lengths. A batch without them is returned as it is.
    """
    if not is_double(batch) or not len(batch):
        return batch
    largest = host(abs(batch).max(axis=1) if isinstance(batch, np.ndarray) else abs(batch).amax(1))
    ordinary = (largest * batch.shape[1] ** 0.5 < LENGTHS[1]) & (largest > LENGTHS[0])
    if (ordinary | (largest == 0) | ~np.isfinite(largest)).all():
        return batch
    exponents = np.where(ordinary | ~np.isfinite(largest), 0, np.frexp(largest)[1])
    return _times_power(batch, -exponents[:, None])


def placed(batch: Array, row_map: RowMap, exponent: int) -> Array:
    """Return a batch as a row map takes it: divided by 2^exponent (raw), or with rows of ordinary length."""
    return scaled(batch, exponent) if row_map == "raw" else with_ordinary_rows(batch)


def _times_power(array: Array, exponents: np.ndarray) -> Array:
    """Return array * 2^exponents. In two steps, since a single power may be beyond float64 where the product is not."""
    half = exponents // 2
    for part in (half, exponents - half):
        factors = np.ldexp(1.0, part)
        if isinstance(array, np.ndarray):
            array = array * factors
        else:
            import torch

            array = array * torch.from_numpy(np.asarray(factors)).to(array.device)
    return array
