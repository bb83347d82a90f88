"""Statistics of all pairs of rows, tile by tile: for kernels without moments, for ranks, and for few rows.

O(n^2 d) time and O(n d) memory: the shifted rows of both spaces are kept, and no n x n array is, except for the exact
ranks of a limited number of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertft import kernels
from bertft.arrays import CONSTANT_ROW, RowSource, as_double, bad_row, host, is_double
from bertft.errors import ArrayError, RowError
from bertft.kernels.types import Array, Link, Rows
from bertft.statistics.forms import FORMS, KernelForm
from bertft.statistics.moments import center_of
from bertft.statistics.pair_sums import PairSums, noise_of
from bertft.statistics.scaling import (
    DOUBLE,
    SINGLE,
    extreme_exponent,
    inside,
    scaled,
    too_close,
    varies,
    vary,
    with_ordinary_rows,
)

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


def prepare(
    x: RowSource, y: RowSource, kernel: str, ops: kernels.Operations, gamma: float | None, double: bool
) -> tuple[Space, Space]:
    """Return two spaces with their rows shifted for a kernel, in one type: float64 where float32 loses their digits.

    Raises `ArrayError` naming a row without a value.
    """
    spaces = [space_of(rows, kernel, ops, gamma, double) for rows in (x, y)]
    if not double and any(is_double(space.rows.vectors) for space in spaces):
        spaces = [
            space if is_double(space.rows.vectors) else space_of(rows, kernel, ops, gamma, True)
            for rows, space in zip((x, y), spaces, strict=True)
        ]
    return spaces[0], spaces[1]


def space_of(source: RowSource, kernel: str, ops: kernels.Operations, gamma: float | None, double: bool) -> Space:
    """Return one space with its rows shifted for a kernel; in float64 if `double`, or where float32 loses digits."""
    form = FORMS[kernel]
    raw, exponent = form.row_map == "raw", 0
    placing = _Placing(form, ops, double)
    rows, center = placing.rows(source, 0)
    mean, square = first_moments(rows.vectors)
    if raw and square > 0 and not is_double(rows.vectors) and not inside(square, SINGLE):
        return space_of(source, kernel, ops, gamma, True)
    if raw and not (inside(square, DOUBLE) and np.abs(center).max() <= DOUBLE.most and varies(square, mean)):
        exponent = extreme_exponent(_batches(source, ops))
        if exponent:
            rows, center = placing.rows(source, exponent)
            mean, square = first_moments(rows.vectors)
        if not (inside(square, DOUBLE) and varies(square, mean)) and vary(_batches(source, ops)):
            # Columns that are constant leave nothing about the first row, and a rounding error about their mean.
            rows, center = placing.rows(source, exponent, about_first=True)
            mean, square = first_moments(rows.vectors)
            if not inside(square, DOUBLE):
                raise ArrayError(too_close(source.name))
    constant, typical = float(center @ center), min(square, _typical_square(rows.vectors))
    noise = noise_of(constant, typical, form.form)
    if form.form == "dot":
        return Space(rows, Link(), constant, noise)
    n = len(source)
    # The mean squared distance of the pairs is 2 n / (n - 1) times the mean |u - mean(u)|^2, which is linear in n.
    mean_distance = 2.0 * n / (n - 1) * max(square - float(mean @ mean), 0.0)
    if form.link == "rbf":
        rate = 1.0 / mean_distance if mean_distance > 0 else 1.0
        if gamma is not None:
            with np.errstate(over="ignore"):
                rate = float(min(np.ldexp(gamma, 2 * exponent), np.finfo(np.float64).max))
        return Space(rows, Link("rbf", rate), 0.0, min(rate * noise + 1e-15, 1.0))
    if form.link == "euclidean":
        return Space(rows, Link("euclidean"), 0.0, 1e-13 * math.sqrt(typical) + 1e-14 * math.sqrt(constant))
    return Space(rows, Link(), 0.0, noise)


@dataclass(frozen=True)
class _Placing:
    """How rows of a source are read: mapped and shifted for a form of kernel, in float64 if `double`."""

    form: KernelForm
    ops: kernels.Operations
    double: bool

    def rows(self, source: RowSource, exponent: int, *, about_first: bool = False) -> tuple[Rows, Array]:
        """Return the rows of a source divided by 2^exponent, shifted, and the center they were shifted by.

        The center is the first row if `about_first`, else the mean of a sample.
        Raises `RowError` for a row without a value. Sums that leave the range of float64 are returned as they are.
        """
        row_map = self.form.row_map
        sample = (
            source.batch(0, 1, arrays=self.ops.arrays) if about_first else source.spread(SAMPLE_ROWS, self.ops.arrays)
        )
        sample = _typed(sample, self.double)
        center = center_of(self.ops, scaled(sample, exponent), row_map)
        parts, n = [], len(source)
        for low in range(0, n, _CHUNK):
            batch = _typed(source.batch(low, min(low + _CHUNK, n), arrays=self.ops.arrays), self.double)
            batch = scaled(batch, exponent)
            part = self.ops.shifted_rows(batch, center, row_map, self.form.form)
            if not _all_finite(part.offsets):
                if (found := bad_row(batch, row_map)) is not None:
                    raise RowError(source.name, low + found[0], found[1])
                if row_map != "raw":  # under the raw map the whole space is scaled, by the caller
                    part = self._of_extreme_scale(batch, center, source.name, low)
            parts.append(part)
            source.release()
        if len(parts) == 1:
            return parts[0], center
        return Rows(_concatenate([p.vectors for p in parts]), _concatenate([p.offsets for p in parts])), center

    def _of_extreme_scale(self, batch: Array, center: Array, name: str, first: int) -> Rows:
        """Return the shifted rows of a batch with rows of extreme length, or raise `RowError`."""
        part: Rows = self.ops.shifted_rows(with_ordinary_rows(batch), center, self.form.row_map, self.form.form)
        good = np.isfinite(host(part.offsets))
        if not good.all():
            raise RowError(name, first + int(np.argmin(good)), CONSTANT_ROW)
        return part


def _batches(source: RowSource, ops: kernels.Operations) -> Iterator[Array]:
    """Yield all rows of a source as they are."""
    for low in range(0, len(source), _CHUNK):
        yield source.batch(low, min(low + _CHUNK, len(source)), arrays=ops.arrays)
        source.release()


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


def first_moments(vectors: Array) -> tuple[Array, float]:
    """Return the mean of the shifted rows and their mean square, in float64."""
    total, square = np.zeros(vectors.shape[1]), 0.0
    for low in range(0, len(vectors), _CHUNK):
        chunk = vectors[low : low + _CHUNK]
        chunk = chunk.astype(np.float64) if isinstance(chunk, np.ndarray) else chunk.double()
        with np.errstate(over="ignore", invalid="ignore"):
            total += host(chunk.sum(0))
            square += float((chunk * chunk).sum())
    return total / len(vectors), square / len(vectors)


def _typical_square(vectors: Array) -> float:
    """Return a mean square of shifted rows to which a few long rows do not count, from a sample of the rows."""
    sample = host(as_double(vectors[:: max(1, len(vectors) // SAMPLE_ROWS)]))
    median = float(np.median(np.einsum("nd,nd->n", sample, sample)))
    return 100.0 * median if median > 0 else math.inf


def _all_finite(offsets: Array) -> bool:
    return bool(np.isfinite(host(offsets)).all())


def _concatenate(parts: list[Any]) -> Array:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)
