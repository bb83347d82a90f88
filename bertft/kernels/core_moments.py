"""Shifted rows, and the sums over rows from which every bilinear measure follows, on the CPU.

BLAS makes the products of matrices; C++ (`bertft._core`) makes the rest, in threads. Norms, shifts, offsets and sums
over rows are float64; only the products run in the type of the rows (float32 or float64). Work is cut the same way
whatever the number of threads, the parts are added in order, and the operands of products begin at a multiple of 64
bytes, so the same input gives the same bits in every call on one machine. The C++ code adds in the same order on every
processor; the products round differently on another processor, or with another BLAS library.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from bertft import _core
from bertft.kernels.aligned import aligned_empty
from bertft.kernels.cpu_threads import PARTS, in_threads, scratch, spans
from bertft.kernels.types import CONSTANT, LENGTHS, Array, Form, MomentSums, RowMap, Rows

HALVED = 2048
"""Rows from which a product is made in two halves, so that the products balance two threads."""

ROW_OPERATIONS = 20
"""Operations on one number of a row, products apart."""

_LIMITS = (LENGTHS[0] ** 2, LENGTHS[1] ** 2, CONSTANT)
"""The least and the largest squared length of a row, and the share of its mean below which it is constant."""


def shifted_rows(x: Array, center: Array, row_map: RowMap, form: Form) -> Rows:
    """Return u = map(x) - center with the offsets of the form, see `bertft.kernels.types`."""
    x, center = np.ascontiguousarray(x), np.ascontiguousarray(center, dtype=np.float64)
    stored, offsets = aligned_empty(x.shape, x.dtype), np.empty(len(x))

    def work(_: int, low: int, high: int) -> None:
        _core.shift_rows(x[low:high], center, row_map, form == "distance", _LIMITS, stored[low:high], offsets[low:high])

    in_threads(work, spans(len(x)), operations=ROW_OPERATIONS * x.size)
    return Rows(stored, offsets)


def moments(x: Array, y: Array, x_center: Array, y_center: Array, row_map: RowMap) -> MomentSums:
    """Return the sums over rows from which every bilinear measure follows."""
    return shared_moments(x, (y,), x_center, (y_center,), row_map)[0]


def shared_moments(
    x: Array, ys: Sequence[Array], x_center: Array, y_centers: Sequence[Array], row_map: RowMap
) -> list[MomentSums]:
    """Return the moments of x with each of several y; x is mapped and multiplied with itself once."""
    u, kept = scratch("u", x.shape, x.dtype), np.empty((len(x), 4))
    found: list[MomentSums] = []
    for y, y_center in zip(ys, y_centers, strict=True):
        v, again = scratch("v", y.shape, y.dtype), bool(found)
        scalars, x_vectors, y_vectors = _row_sums(x, y, x_center, y_center, row_map, kept, again, u, v)
        if again:
            own = [0, 1, 3]  # the sums of u, a u and e u do not depend on y
            x_vectors[own] = found[0].x_vectors[own]
            xy, yy = _products((u, v), (v, v))
            found.append(MomentSums(scalars, x_vectors, y_vectors, found[0].xx, xy, yy))
        else:
            xy, xx, yy = _products((u, v), (u, u), (v, v))  # the largest first: no thread waits long at the end
            found.append(MomentSums(scalars, x_vectors, y_vectors, xx, xy, yy))
    return found


def _row_sums(
    x: Array, y: Array, x_center: Array, y_center: Array, row_map: RowMap, kept: Array, again: bool, u: Array, v: Array
) -> tuple[Array, Array, Array]:
    """Write the shifted rows u and v; return the sums over rows of w w^T, w u^T and w v^T, see `MomentSums`.

    `kept` (rows, 4) holds the mean, scale, a and e of each row of x. They are written unless the rows of x come
    `again`, with another y: then they are read, u is not written, and of w u^T only what depends on y is added.
    """
    ww, wu, wv = np.zeros((PARTS, 5, 5)), np.zeros((PARTS, 5, x.shape[1])), np.zeros((PARTS, 5, y.shape[1]))

    def work(part: int, low: int, high: int) -> None:
        rows = slice(low, high)
        placed = x[rows], y[rows], x_center, y_center, row_map, _LIMITS, kept[rows], again, u[rows], v[rows]
        _core.row_moments(*placed, ww[part], wu[part], wv[part])

    in_threads(work, spans(len(x)), operations=ROW_OPERATIONS * x.size)
    with np.errstate(all="ignore"):
        return ww.sum(axis=0), wu.sum(axis=0), wv.sum(axis=0)


def _products(*pairs: tuple[Array, Array]) -> list[Array]:
    """Return left^T right for each pair, float64; the products themselves run in the type of the rows."""
    halves = _halves(len(pairs[0][0]))
    operations = sum(2.0 * left.size * right.shape[1] for left, right in pairs)
    products = iter(in_threads(_product, [(pair, rows) for pair in pairs for rows in halves], operations=operations))
    totals = [np.empty((left.shape[1], right.shape[1])) for left, right in pairs]
    parts = [tuple(islice(products, len(halves))) for _ in pairs]
    blocks = [
        (total, of, low, high) for total, of in zip(totals, parts, strict=True) for _, low, high in spans(len(total))
    ]
    in_threads(_write_sum, blocks, operations=operations)
    return totals


def _halves(n: int) -> list[slice]:
    return [slice(0, n // 2), slice(n // 2, n)] if n >= HALVED else [slice(0, n)]


def _product(pair: tuple[Array, Array], rows: slice) -> Array:
    """Return left^T right over some rows, in their type."""
    left, right = pair
    # NumPy makes the product of a matrix with itself as a symmetric rank update: half the work.
    out = aligned_empty((left.shape[1], right.shape[1]), np.result_type(left, right))
    with np.errstate(all="ignore"):  # what leaves the range of the type is found in the sums, and made again
        return np.matmul(left[rows].T, right[rows], out=out)


def _write_sum(total: Array, parts: tuple[Array, ...], low: int, high: int) -> None:
    """Write a block of rows of the sum, in float64, small enough to stay in the cache between two parts."""
    rows = slice(low, high)
    total[rows] = parts[0][rows]
    with np.errstate(all="ignore"):
        for part in parts[1:]:
            total[rows] += part[rows]
