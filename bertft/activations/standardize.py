"""Z-scores of every dimension, with means and standard deviations from a first pass over the same tokens.

A few dimensions with much larger variance than the rest can dominate cosine similarity; standardising removes their
weight (Timkey and van Schijndel 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 16.0
"""Rounding errors in hidden states, in units in the last place of the root mean square of a typical column. Models add
up in float32 or wider, so the units are those of float32 for narrower types too."""


class Standardizer:
    """The mean and standard deviation of every column of rows that arrive in parts, (r, d) each.

    >>> standardizer = Standardizer()
    >>> standardizer.update(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    >>> standardizer.apply(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """

    def __init__(self) -> None:
        self._n = 0
        # The sums are of differences from the first row, in float64. So no digits are lost where a mean is much larger
        # than the standard deviation, and a constant column has a sum of squares of exactly 0.
        self._origin = self._sum = self._sum_of_squares = torch.empty(0)

    def update(self, rows: Tensor) -> None:
        """Add rows, (r, d)."""
        if self._n == 0 and len(rows):
            self._origin = rows[0].double()
            self._sum = torch.zeros_like(self._origin)
            self._sum_of_squares = torch.zeros_like(self._origin)
        differences = rows.double() - self._origin
        self._n += len(rows)
        self._sum += differences.sum(dim=0)
        self._sum_of_squares += differences.square().sum(dim=0)

    def apply(self, rows: Tensor) -> Tensor:
        """Return the z-scores of rows, (r, d), in float32 or wider; a column that is constant to rounding gives 0.

        Rounding errors depend on the processor and the batch. Z-scores would enlarge them to the size of a signal.
        """
        shift = self._sum / self._n
        variance = self._sum_of_squares / self._n - shift.square()
        squares = variance + (self._origin + shift).square()
        stored, summed = (
            torch.finfo(dtype).eps for dtype in (rows.dtype, torch.promote_types(rows.dtype, torch.float32))
        )
        least = torch.maximum(stored**2 * squares, (ROUNDING * summed) ** 2 * squares.median())
        scale = torch.where(variance > least, variance.clamp(min=0).rsqrt(), 0.0)
        scores = (rows.double() - (self._origin + shift)) * scale
        return scores if rows.dtype == torch.float64 else scores.float()
