"""Statistics of all pairs of rows, tile by tile: for kernels without moments, for ranks, and for few rows.

O(n^2 d) time and O(n d) memory: the shifted rows of both spaces are kept, and no n x n array is, except for the exact
ranks of a limited number of pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertft import kernels
from bertft.arrays import RowSource, as_double, bad_row, host
from bertft.errors import RowError
from bertft.kernels.types import Array, Link, Rows
from bertft.statistics.forms import FORMS
from bertft.statistics.moments import center_of
from bertft.statistics.pair_sums import PairSums, noise_of

SAMPLE_ROWS = 1024
"""Rows whose pairs, half a million, show the range of a kernel's values."""

_CHUNK = 8192


@dataclass(frozen=True)
class Space:
    """One space: its shifted rows, the link to the kernel's values, and the rounding error of those values."""

    rows: Rows
    link: Link
    shift: float
    noise: float

    def centred(self, center: float) -> Space:
        """Return the same space with its values taken about another center."""
        link = self.link._replace(center=self.link.center + center)
        return Space(self.rows, link, self.shift + center, self.noise)


def prepare(source: RowSource, kernel: str, ops: kernels.Operations, gamma: float | None, double: bool) -> Space:
    """Return the rows of a source, shifted for a kernel. Raises `ArrayError` naming a row without a value."""
    form = FORMS[kernel]
    n = len(source)
    center = center_of(ops, _typed(source.spread(SAMPLE_ROWS, ops.arrays), double), form.row_map)
    parts = []
    for low in range(0, n, _CHUNK):
        batch = _typed(source.batch(low, min(low + _CHUNK, n), arrays=ops.arrays), double)
        part = ops.shifted_rows(batch, center, form.row_map, form.form)
        if not _all_finite(part.offsets):
            found = bad_row(batch, form.row_map)
            row, why = found if found is not None else (0, "overflows float64 when squared")
            raise RowError(source.name, low + row, why)
        parts.append(part)
        source.release()
    rows = (
        parts[0]
        if len(parts) == 1
        else Rows(_concatenate([p.vectors for p in parts]), _concatenate([p.offsets for p in parts]))
    )
    mean, square = _first_moments(rows.vectors)
    constant = float(center @ center)
    noise = noise_of(constant, square, form.form)
    if form.form == "dot":
        return Space(rows, Link(), constant, noise)
    # The mean squared distance of the pairs is 2 n / (n - 1) times the mean |u - mean(u)|^2, which is linear in n.
    mean_distance = 2.0 * n / (n - 1) * max(square - float(mean @ mean), 0.0)
    if form.link == "rbf":
        rate = gamma if gamma is not None else 1.0 / mean_distance if mean_distance > 0 else 1.0
        return Space(rows, Link("rbf", rate), 0.0, rate * noise + 1e-15)
    if form.link == "euclidean":
        return Space(rows, Link("euclidean"), 0.0, 1e-13 * math.sqrt(square) + 1e-14 * math.sqrt(constant))
    return Space(rows, Link(), 0.0, noise)


def sampled_values(space: Space, ops: kernels.Operations) -> Array:
    """Return the kernel's values for the pairs of a sample of rows, float64 NumPy."""
    n = len(space.rows.vectors)
    step = max(1, n // SAMPLE_ROWS)
    sample = Rows(space.rows.vectors[::step][:SAMPLE_ROWS], space.rows.offsets[::step][:SAMPLE_ROWS])
    return host(ops.pair_values(sample, space.link))


def pair_sums(x: Space, y: Space, ops: kernels.Operations) -> PairSums:
    """Return the five sums over all pairs, about a provisional center of each side's values."""
    x, y = (space.centred(float(np.mean(sampled_values(space, ops)))) for space in (x, y))
    f, g, ff, gg, fg = host(ops.gram_pearson(x.rows, y.rows, x.link, y.link)).tolist()
    n = len(x.rows.vectors)
    return PairSums(n * (n - 1) // 2, f, g, ff, gg, fg, x.shift, y.shift, x.noise, y.noise)


def _typed(batch: Array, double: bool) -> Array:
    if double:
        return as_double(batch)
    return batch.float() if batch.dtype.itemsize == 2 else batch  # half precision of a GPU


def _first_moments(vectors: Array) -> tuple[Array, float]:
    """Return the mean of the shifted rows and their mean square, in float64."""
    total, square = np.zeros(vectors.shape[1]), 0.0
    for low in range(0, len(vectors), _CHUNK):
        chunk = vectors[low : low + _CHUNK]
        chunk = chunk.astype(np.float64) if isinstance(chunk, np.ndarray) else chunk.double()
        total += host(chunk.sum(0))
        square += float((chunk * chunk).sum())
    return total / len(vectors), square / len(vectors)


def _all_finite(offsets: Array) -> bool:
    return bool(np.isfinite(host(offsets)).all())


def _concatenate(parts: list[Any]) -> Array:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)
