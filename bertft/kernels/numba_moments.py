"""Shifted rows, and the sums over rows from which every bilinear measure follows, on the CPU.

BLAS makes the products of matrices; Numba compiles the rest and runs it in threads. Norms, shifts, offsets and sums
over rows are float64; only the products run in the type of the rows (float32 or float64). Work is cut the same way
whatever the number of threads, the parts are added in order, and the operands of products begin at a multiple of 64
bytes, so the same input gives the same bits in every call on one machine. Another processor, or another BLAS library,
rounds differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np

from bertft.kernels.aligned import aligned_empty
from bertft.kernels.numba_threads import PARTS, compiled, in_threads, scratch, spans
from bertft.kernels.types import CONSTANT, LENGTHS, Array, Form, MomentSums, RowMap, Rows

HALVED = 2048
"""Rows from which a product is made in two halves, so that the products balance two threads."""

ROW_OPERATIONS = 20
"""Operations on one number of a row, products apart."""

SQUARES = (LENGTHS[0] ** 2, LENGTHS[1] ** 2)

_RAW, _UNIT, _CENTRED_UNIT = 0, 1, 2
_MAPS: dict[RowMap, int] = {"raw": _RAW, "unit": _UNIT, "centred_unit": _CENTRED_UNIT}


@compiled
def _map_of_row(x: Array, row_map: int) -> tuple[float, float]:
    """Return the mean and the scale that map a row: map(x) = (x - mean) * scale; the scale of a bad row is nan."""
    mean = 0.0
    scale = 1.0
    if row_map == _CENTRED_UNIT:
        for j in range(x.shape[0]):
            mean += np.float64(x[j])
        mean /= x.shape[0]
    if row_map != _RAW:
        square = 0.0
        for j in range(x.shape[0]):
            centred = np.float64(x[j]) - mean
            square += centred * centred
        constant = CONSTANT * abs(mean)
        least = max(constant * constant * x.shape[0], SQUARES[0])
        scale = 1.0 / math.sqrt(square) if least < square < SQUARES[1] else np.nan
    return mean, scale


@compiled
def _shift_row(
    x: Array, mean: float, scale: float, center: Array, shifted: Array, stored: Array
) -> tuple[float, float]:
    """Write u = map(x) - center to `shifted` (float64) and `stored` (compute type); return center . u and |u|^2."""
    dot = 0.0
    norm = 0.0
    for j in range(x.shape[0]):
        value = (np.float64(x[j]) - mean) * scale - center[j]
        shifted[j] = value
        stored[j] = value
        dot += center[j] * value
        norm += value * value
    return dot, norm


@compiled
def _shift_rows(x: Array, center: Array, row_map: int, distance: bool, stored: Array, offsets: Array) -> None:
    shifted = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        mean, scale = _map_of_row(x[i], row_map)
        dot, norm = _shift_row(x[i], mean, scale, center, shifted, stored[i])
        offsets[i] = np.nan if not np.isfinite(norm) else -0.5 * norm if distance else dot


def shifted_rows(x: Array, center: Array, row_map: RowMap, form: Form) -> Rows:
    """Return u = map(x) - center with the offsets of the form, see `bertft.kernels.types`."""
    stored, offsets = aligned_empty(x.shape, x.dtype), np.empty(len(x))
    center = np.asarray(center, dtype=np.float64)

    def work(_: int, low: int, high: int) -> None:
        _shift_rows(x[low:high], center, _MAPS[row_map], form == "distance", stored[low:high], offsets[low:high])

    in_threads(work, spans(len(x)), operations=ROW_OPERATIONS * x.size)
    return Rows(stored, offsets)


@compiled
def _add_weighted(out: Array, weights: Array, rows: Array, scalar: int) -> None:
    # Four rows at a time: the sums are read and written once for the four.
    w0, w1, w2, w3 = weights[0, scalar], weights[1, scalar], weights[2, scalar], weights[3, scalar]
    r0, r1, r2, r3 = rows[0], rows[1], rows[2], rows[3]
    for j in range(out.shape[0]):
        out[j] += w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]


@compiled
def _row_moments(
    x: Array, y: Array, x_center: Array, y_center: Array, row_map: int, kept: Array, again: bool,
    u: Array, v: Array, ww: Array, wu: Array, wv: Array,
) -> None:  # fmt: skip
    """Write u and v of some rows and add to their sums w w^T, w u^T and w v^T.

    `kept` (rows, 4) holds the mean, scale, a and e of each row of x. They are written unless the rows of x come
    `again`, with another y: then they are read, u is not written, and of w u^T only what depends on y is added.
    """
    n = x.shape[0]
    weights = np.zeros((4, 5))
    x_rows, y_rows = np.zeros((4, x.shape[1])), np.zeros((4, y.shape[1]))
    for low in range(0, n, 4):
        count = min(4, n - low)
        weights[count:] = 0.0
        for r in range(count):
            i = low + r
            if again:
                mean, scale, a, e = kept[i, 0], kept[i, 1], kept[i, 2], kept[i, 3]
                for j in range(x.shape[1]):
                    x_rows[r, j] = (np.float64(x[i, j]) - mean) * scale - x_center[j]
            else:
                mean, scale = _map_of_row(x[i], row_map)
                a, e = _shift_row(x[i], mean, scale, x_center, x_rows[r], u[i])
                kept[i, 0], kept[i, 1], kept[i, 2], kept[i, 3] = mean, scale, a, e
            mean, scale = _map_of_row(y[i], row_map)
            b, f = _shift_row(y[i], mean, scale, y_center, y_rows[r], v[i])
            weights[r, 0], weights[r, 1], weights[r, 2], weights[r, 3], weights[r, 4] = 1.0, a, b, e, f
        for k in range(5):
            for m in range(5):
                for r in range(count):
                    ww[k, m] += weights[r, k] * weights[r, m]
            if not again or k == 2 or k == 4:
                _add_weighted(wu[k], weights, x_rows, k)
            _add_weighted(wv[k], weights, y_rows, k)


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
    """Run `_row_moments` over all rows and return the sums of w w^T, w u^T and w v^T."""
    ww, wu, wv = np.zeros((PARTS, 5, 5)), np.zeros((PARTS, 5, x.shape[1])), np.zeros((PARTS, 5, y.shape[1]))

    def work(part: int, low: int, high: int) -> None:
        rows = slice(low, high)
        sums = ww[part], wu[part], wv[part]
        centers = x_center, y_center, _MAPS[row_map]
        _row_moments(x[rows], y[rows], *centers, kept[rows], again, u[rows], v[rows], *sums)

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
