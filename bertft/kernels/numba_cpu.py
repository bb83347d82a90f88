"""The operations on the CPU: products by BLAS, everything between two products compiled by Numba and run in threads.

A row is read once.  Norms, shifts, offsets and sums over rows are float64; only the products run in the type of the
rows (float32 or float64).  Work is cut the same way whatever the number of threads, the parts are added in order, and
what is multiplied begins at a multiple of 64 bytes: so the same input gives the same bits in every call on one machine.
Another processor, or another BLAS, rounds differently.

Threads come from a plain pool, and each makes its products alone: BLAS is held to one thread meanwhile.  A team of
BLAS or OpenMP threads spins for up to a tenth of a second after its work and takes the processors from whatever runs
next, here and in the model that made the rows.

Tiles own a block of rows I and a block J >= I of the upper triangle: two products, then one reduction row by row; no
tile outlives its reduction.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numba import njit

from bertft.kernels.aligned import aligned_empty
from bertft.kernels.blas_threads import one_blas_thread
from bertft.kernels.types import CONSTANT, Array, Bins, Form, Link, MomentSums, RowMap, Rows

PARTS = 16
"""Parts a batch of rows is cut into: enough to balance eight threads, few enough that adding them costs nothing."""

HALVED = 2048
"""Rows from which a product is made in two halves, so that the three products balance two threads."""

ROW_OPERATIONS = 20
"""Operations on a number of a row, products apart."""

INLINE = 5e6
"""Operations below which waking threads takes longer than the work."""

TILE = 1024
"""Most rows and columns of a tile: a float32 tile is 4 MiB, wide enough for BLAS at full speed."""

NEAR = 1e-3
"""Squared distances below this share of |u_i|^2 + |u_j|^2 are computed again from the difference of the two rows: the
product form loses its digits there, and the square root would multiply the loss."""

_RAW, _UNIT, _CENTRED_UNIT = 0, 1, 2
_MAPS: dict[RowMap, int] = {"raw": _RAW, "unit": _UNIT, "centred_unit": _CENTRED_UNIT}
_IDENTITY, _EUCLIDEAN, _RBF = 0, 1, 2
_LINKS = {"identity": _IDENTITY, "euclidean": _EUCLIDEAN, "rbf": _RBF}

# Sums may be reordered (that is what vectorises them), but nan and inf keep their meaning.
_compiled = njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="bertft")


os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads of a pool do not survive a fork


@cache
def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spans(n: int) -> list[tuple[int, int, int]]:
    """The parts of range(n): number, first, end."""
    edges = [n * part // PARTS for part in range(PARTS + 1)]
    return [(part, low, high) for part, (low, high) in enumerate(pairwise(edges)) if high > low]


def _in_threads(work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], *, operations: float) -> list[Any]:
    """work(*task) for each task, results in order of tasks; `operations` says how much work that is, roughly."""
    with one_blas_thread():
        if operations < INLINE:
            return [work(*task) for task in tasks]
        return list(_pool().map(lambda task: work(*task), tasks))


# ---------------------------------------------------------------------------------------------------------------- rows


@_compiled
def _shift_row(x: Array, center: Array, row_map: int, shifted: Array, stored: Array) -> tuple[float, float]:
    """Writes map(x) - center to `shifted` (float64) and `stored` (compute type); returns center . u and |u|^2."""
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
        least = constant * constant * x.shape[0]
        scale = 1.0 / math.sqrt(square) if least < square < np.inf else np.nan
    dot = 0.0
    norm = 0.0
    for j in range(x.shape[0]):
        value = (np.float64(x[j]) - mean) * scale - center[j]
        shifted[j] = value
        stored[j] = value
        dot += center[j] * value
        norm += value * value
    return dot, norm


@_compiled
def _shift_rows(x: Array, center: Array, row_map: int, distance: bool, stored: Array, offsets: Array) -> None:
    shifted = np.empty(x.shape[1])
    for i in range(x.shape[0]):
        dot, norm = _shift_row(x[i], center, row_map, shifted, stored[i])
        offsets[i] = np.nan if not np.isfinite(norm) else -0.5 * norm if distance else dot


def shifted_rows(x: Array, center: Array, row_map: RowMap, form: Form) -> Rows:
    stored, offsets = aligned_empty(x.shape, x.dtype), np.empty(len(x))
    center = np.asarray(center, dtype=np.float64)

    def work(_: int, low: int, high: int) -> None:
        _shift_rows(x[low:high], center, _MAPS[row_map], form == "distance", stored[low:high], offsets[low:high])

    _in_threads(work, _spans(len(x)), operations=ROW_OPERATIONS * x.size)
    return Rows(stored, offsets)


# ------------------------------------------------------------------------------------------------------------- moments


@_compiled
def _add_weighted(out: Array, weights: Array, rows: Array, scalar: int) -> None:
    # Four rows at a time: the sums are read and written once for the four.
    w0, w1, w2, w3 = weights[0, scalar], weights[1, scalar], weights[2, scalar], weights[3, scalar]
    r0, r1, r2, r3 = rows[0], rows[1], rows[2], rows[3]
    for j in range(out.shape[0]):
        out[j] += w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]


@_compiled
def _row_moments(
    x: Array,
    y: Array,
    x_center: Array,
    y_center: Array,
    row_map: int,
    u: Array,
    v: Array,
    ww: Array,
    wu: Array,
    wv: Array,
) -> None:
    n = x.shape[0]
    weights = np.zeros((4, 5))
    x_rows, y_rows = np.zeros((4, x.shape[1])), np.zeros((4, y.shape[1]))
    for low in range(0, n, 4):
        count = min(4, n - low)
        weights[count:] = 0.0
        for r in range(count):
            a, e = _shift_row(x[low + r], x_center, row_map, x_rows[r], u[low + r])
            b, f = _shift_row(y[low + r], y_center, row_map, y_rows[r], v[low + r])
            weights[r, 0], weights[r, 1], weights[r, 2], weights[r, 3], weights[r, 4] = 1.0, a, b, e, f
        for k in range(5):
            for m in range(5):
                for r in range(count):
                    ww[k, m] += weights[r, k] * weights[r, m]
            _add_weighted(wu[k], weights, x_rows, k)
            _add_weighted(wv[k], weights, y_rows, k)


def moments(x: Array, y: Array, x_center: Array, y_center: Array, row_map: RowMap) -> MomentSums:
    u, v = _scratch("u", x.shape, x.dtype), _scratch("v", y.shape, y.dtype)
    ww, wu, wv = np.zeros((PARTS, 5, 5)), np.zeros((PARTS, 5, x.shape[1])), np.zeros((PARTS, 5, y.shape[1]))

    def work(part: int, low: int, high: int) -> None:
        rows = slice(low, high)
        sums = ww[part], wu[part], wv[part]
        _row_moments(x[rows], y[rows], x_center, y_center, _MAPS[row_map], u[rows], v[rows], *sums)

    _in_threads(work, _spans(len(x)), operations=ROW_OPERATIONS * x.size)
    pairs = (u, v), (u, u), (v, v)  # the largest first: no thread waits long at the end
    halves = _halves(len(x))
    tasks = [(pair, rows) for pair in pairs for rows in halves]
    operations = sum(2.0 * left.size * right.shape[1] for left, right in pairs)
    products = iter(_in_threads(_product, tasks, operations=operations))
    totals = [np.empty((left.shape[1], right.shape[1])) for left, right in pairs]
    parts = [tuple(islice(products, len(halves))) for _ in pairs]
    blocks = [
        (total, of, low, high) for total, of in zip(totals, parts, strict=True) for _, low, high in _spans(len(total))
    ]
    _in_threads(_write_sum, blocks, operations=operations)
    xy, xx, yy = totals
    return MomentSums(ww.sum(axis=0), wu.sum(axis=0), wv.sum(axis=0), xx, xy, yy)


def _halves(n: int) -> list[slice]:
    return [slice(0, n // 2), slice(n // 2, n)] if n >= HALVED else [slice(0, n)]


def _product(pair: tuple[Array, Array], rows: slice) -> Array:
    """left^T right over some rows, in their type."""
    left, right = pair
    # Of a matrix with itself this is a symmetric rank update for NumPy: half the work.
    out = aligned_empty((left.shape[1], right.shape[1]), np.result_type(left, right))
    return np.matmul(left[rows].T, right[rows], out=out)


def _write_sum(total: Array, parts: tuple[Array, ...], low: int, high: int) -> None:
    """Writes a block of rows of the sum, in float64, small enough to stay in the cache between two parts."""
    rows = slice(low, high)
    total[rows] = parts[0][rows]
    for part in parts[1:]:
        total[rows] += part[rows]


_kept = threading.local()


def _scratch(name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array from memory kept between calls, as large as was ever needed.

    Fresh memory of this size is zeroed by the system page by page, which takes as long as the work that is done in it.
    """
    size = math.prod(shape)
    buffer = getattr(_kept, f"{name}_{dtype}", None)
    if buffer is None or buffer.size < size:
        buffer = aligned_empty((size,), dtype)
        setattr(_kept, f"{name}_{dtype}", buffer)
    return buffer[:size].reshape(shape)


# --------------------------------------------------------------------------------------------------------------- tiles


@_compiled
def _pair_row(
    gram: Array, i: int, rows: Array, offsets: Array, j0: int, link: int, gamma: float, center: float, out: Array
) -> None:
    """Values of the pairs (i, j0 + k) from one row of a Gram tile."""
    offset = offsets[i]
    width = gram.shape[0]
    if link == _IDENTITY:
        offset -= center
        for k in range(width):
            out[k] = np.float64(gram[k]) + (offset + offsets[j0 + k])
        return
    near = 0
    for k in range(width):
        ends = offset + offsets[j0 + k]  # minus half of |u_i|^2 + |u_j|^2
        value = -2.0 * (np.float64(gram[k]) + ends)  # the squared distance
        near += value < -2.0 * NEAR * ends
        out[k] = value
    if near:
        for k in range(width):
            if out[k] < -2.0 * NEAR * (offset + offsets[j0 + k]):
                square = 0.0
                for c in range(rows.shape[1]):
                    difference = np.float64(rows[i, c]) - np.float64(rows[j0 + k, c])
                    square += difference * difference
                out[k] = square
    if link == _EUCLIDEAN:
        for k in range(width):
            out[k] = math.sqrt(max(out[k], 0.0)) - center
    else:
        for k in range(width):
            out[k] = math.exp(-gamma * max(out[k], 0.0)) - center


@_compiled
def _sum_tile(
    x_gram: Array, x: Array, x_offsets: Array, x_link: int, x_gamma: float, x_center: float,
    y_gram: Array, y: Array, y_offsets: Array, y_link: int, y_gamma: float, y_center: float,
    i0: int, j0: int, sums: Array,
) -> None:  # fmt: skip
    f, g = np.empty(x_gram.shape[1]), np.empty(x_gram.shape[1])
    for r in range(x_gram.shape[0]):
        start = max(0, i0 + r + 1 - j0)
        width = x_gram.shape[1] - start
        if width <= 0:
            continue
        _pair_row(x_gram[r, start:], i0 + r, x, x_offsets, j0 + start, x_link, x_gamma, x_center, f)
        _pair_row(y_gram[r, start:], i0 + r, y, y_offsets, j0 + start, y_link, y_gamma, y_center, g)
        sf = sg = sff = sgg = sfg = 0.0
        for k in range(width):
            sf += f[k]
            sg += g[k]
            sff += f[k] * f[k]
            sgg += g[k] * g[k]
            sfg += f[k] * g[k]
        sums[0] += sf
        sums[1] += sg
        sums[2] += sff
        sums[3] += sgg
        sums[4] += sfg


@_compiled
def _bin(value: float, low: float, cells_per_unit: float, first: Array) -> int:
    cells = first.shape[0] - 1
    t = min(max((value - low) * cells_per_unit, 0.0), np.float64(cells))
    cell = min(np.int64(t), cells - 1)
    width = first[cell + 1] - first[cell]
    found: int = first[cell] + min(np.int64((t - cell) * width), width - 1)
    return found


@_compiled
def _count_tile(
    gram: Array, rows: Array, offsets: Array, link: int, gamma: float, center: float,
    bin_low: float, cells_per_unit: float, first: Array, i0: int, j0: int, counts: Array,
) -> None:  # fmt: skip
    values = np.empty(gram.shape[1])
    for r in range(gram.shape[0]):
        start = max(0, i0 + r + 1 - j0)
        width = gram.shape[1] - start
        if width <= 0:
            continue
        _pair_row(gram[r, start:], i0 + r, rows, offsets, j0 + start, link, gamma, center, values)
        for k in range(width):
            counts[_bin(values[k], bin_low, cells_per_unit, first)] += 1


@_compiled
def _rank_tile(
    x_gram: Array, x: Array, x_offsets: Array, x_link: int, x_gamma: float, x_center: float,
    x_low: float, x_cells_per_unit: float, x_first: Array, x_ranks: Array,
    y_gram: Array, y: Array, y_offsets: Array, y_link: int, y_gamma: float, y_center: float,
    y_low: float, y_cells_per_unit: float, y_first: Array, y_ranks: Array,
    i0: int, j0: int,
) -> float:  # fmt: skip
    f, g = np.empty(x_gram.shape[1]), np.empty(x_gram.shape[1])
    total = 0.0
    for r in range(x_gram.shape[0]):
        start = max(0, i0 + r + 1 - j0)
        width = x_gram.shape[1] - start
        if width <= 0:
            continue
        _pair_row(x_gram[r, start:], i0 + r, x, x_offsets, j0 + start, x_link, x_gamma, x_center, f)
        _pair_row(y_gram[r, start:], i0 + r, y, y_offsets, j0 + start, y_link, y_gamma, y_center, g)
        row = 0.0
        for k in range(width):
            rank = x_ranks[_bin(f[k], x_low, x_cells_per_unit, x_first)]
            row += rank * y_ranks[_bin(g[k], y_low, y_cells_per_unit, y_first)]
        total += row
    return total


@_compiled
def _store_tile(
    gram: Array, rows: Array, offsets: Array, link: int, gamma: float, center: float,
    i0: int, j0: int, out: Array,
) -> None:  # fmt: skip
    n = offsets.shape[0]
    values = np.empty(gram.shape[1])
    for r in range(gram.shape[0]):
        i = i0 + r
        start = max(0, i + 1 - j0)
        width = gram.shape[1] - start
        if width <= 0:
            continue
        _pair_row(gram[r, start:], i, rows, offsets, j0 + start, link, gamma, center, values)
        # pairs before row i, then those of row i before column j0 + start
        at = i * (2 * n - i - 1) // 2 + j0 + start - i - 1
        out[at : at + width] = values[:width]


def _over_tiles(spaces: tuple[Rows, ...], work: Callable[..., Any]) -> list[Any]:
    """work(grams, i0, j0) for every tile of the triangle, results in order of tiles; a thread makes and reduces it."""
    n = len(spaces[0].vectors)
    side = min(TILE, max(64, -(-n // 8)))

    def tile(i0: int, j0: int) -> Any:
        grams = []
        for number, (vectors, _) in enumerate(spaces):
            left, right = vectors[i0 : i0 + side], vectors[j0 : j0 + side]
            out = _scratch(f"gram {number}", (len(left), len(right)), vectors.dtype)
            grams.append(np.matmul(left, right.T, out=out))
        return work(grams, i0, j0)

    tiles = [(i0, j0) for i0 in range(0, n, side) for j0 in range(i0, n, side)]
    return _in_threads(tile, tiles, operations=float(n) * n * spaces[0].vectors.shape[1])


def _link(link: Link) -> tuple[int, float, float]:
    return _LINKS[link.name], link.gamma, link.center


def gram_pearson(x: Rows, y: Rows, x_link: Link, y_link: Link) -> Array:
    def work(grams: list[Array], i0: int, j0: int) -> Array:
        sums = np.zeros(5)
        _sum_tile(grams[0], *x, *_link(x_link), grams[1], *y, *_link(y_link), i0, j0, sums)
        return sums

    return np.sum(_over_tiles((x, y), work), axis=0)


def pair_histogram(rows: Rows, link: Link, bins: Bins) -> Array:
    # One table a thread, not a tile: they are large.  Counts are whole numbers, so who counts what does not matter.
    tables: dict[int, Array] = {}

    def work(grams: list[Array], i0: int, j0: int) -> None:
        thread = threading.get_ident()
        if thread not in tables:
            tables[thread] = np.zeros(int(bins.first[-1]), dtype=np.int64)
        _count_tile(grams[0], *rows, *_link(link), *bins, i0, j0, tables[thread])

    _over_tiles((rows,), work)
    return np.sum(list(tables.values()), axis=0)


def pair_rank_products(
    x: Rows, y: Rows, x_link: Link, y_link: Link, x_bins: Bins, y_bins: Bins, x_ranks: Array, y_ranks: Array
) -> float:
    def work(grams: list[Array], i0: int, j0: int) -> float:
        x_side, y_side = (*x, *_link(x_link), *x_bins, x_ranks), (*y, *_link(y_link), *y_bins, y_ranks)
        return float(_rank_tile(grams[0], *x_side, grams[1], *y_side, i0, j0))

    return math.fsum(_over_tiles((x, y), work))


def pair_values(rows: Rows, link: Link) -> Array:
    n = len(rows.vectors)
    out = np.empty(n * (n - 1) // 2)

    def work(grams: list[Array], i0: int, j0: int) -> None:
        _store_tile(grams[0], *rows, *_link(link), i0, j0, out)

    _over_tiles((rows,), work)
    return out
