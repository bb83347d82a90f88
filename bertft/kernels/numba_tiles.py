"""Sums over all pairs of rows on the CPU, tile by tile: products by BLAS, reductions compiled by Numba.

A tile is a block of rows I and a block J >= I of the upper triangle. A thread makes its products, one for each space,
and reduces them row by row; no tile outlives its reduction. Values of pairs and sums are float64; only the products
run in the type of the rows. Tiles are cut the same way whatever the number of threads, their parts are added in order,
and the operands of products begin at a multiple of 64 bytes, so the same input gives the same bits in every call on one
machine. Another processor, or another BLAS library, rounds differently.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from bertft.kernels.cpu_threads import in_threads, scratch
from bertft.kernels.numba_compiler import compiled
from bertft.kernels.types import Array, Bins, Link, Rows

TILE = 1024
"""Most rows and columns of a tile: a float32 tile is 4 MiB, wide enough for BLAS at full speed."""

NEAR = 1e-3
"""Squared distances below this share of |u_i|^2 + |u_j|^2 are computed again from the difference of the two rows: the
product form loses its digits there, and the square root would multiply the loss."""

_IDENTITY, _EUCLIDEAN, _RBF = 0, 1, 2
_LINKS = {"identity": _IDENTITY, "euclidean": _EUCLIDEAN, "rbf": _RBF}


@compiled
def _pair_row(
    gram: Array, i: int, rows: Array, offsets: Array, j0: int, link: int, gamma: float, center: float, out: Array
) -> None:
    """Write the values of the pairs (i, j0 + k) from one row of a Gram tile."""
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


@compiled
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


@compiled
def _bin(value: float, low: float, cells_per_unit: float, first: Array) -> int:
    cells = first.shape[0] - 1
    t = min(max((value - low) * cells_per_unit, 0.0), np.float64(cells))
    cell = min(np.int64(t), cells - 1)
    width = first[cell + 1] - first[cell]
    found: int = first[cell] + min(np.int64((t - cell) * width), width - 1)
    return found


@compiled
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


@compiled
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


@compiled
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
    """Return work(grams, i0, j0) for every tile of the triangle, in order; one thread makes a tile and reduces it."""
    n = len(spaces[0].vectors)
    side = min(TILE, max(64, -(-n // 8)))

    def tile(i0: int, j0: int) -> Any:
        grams = []
        for number, (vectors, _) in enumerate(spaces):
            left, right = vectors[i0 : i0 + side], vectors[j0 : j0 + side]
            out = scratch(f"gram {number}", (len(left), len(right)), vectors.dtype)
            grams.append(np.matmul(left, right.T, out=out))
        return work(grams, i0, j0)

    tiles = [(i0, j0) for i0 in range(0, n, side) for j0 in range(i0, n, side)]
    return in_threads(tile, tiles, operations=float(n) * n * spaces[0].vectors.shape[1])


def _link(link: Link) -> tuple[int, float, float]:
    return _LINKS[link.name], link.gamma, link.center


def gram_pearson(x: Rows, y: Rows, x_link: Link, y_link: Link) -> Array:
    """Return the five sums over pairs i < j of f, g, f^2, g^2 and f g, the values of x and y, float64."""

    def work(grams: list[Array], i0: int, j0: int) -> Array:
        sums = np.zeros(5)
        _sum_tile(grams[0], *x, *_link(x_link), grams[1], *y, *_link(y_link), i0, j0, sums)
        return sums

    return np.sum(_over_tiles((x, y), work), axis=0)


def pair_histogram(rows: Rows, link: Link, bins: Bins) -> Array:
    """Return how many pairs i < j fall in each bin, (bins,) int64."""
    # One table a thread rather than a tile, since tables are large. The order of adding integers does not matter.
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
    """Return the sum over pairs i < j of x_ranks[bin of x] * y_ranks[bin of y]."""

    def work(grams: list[Array], i0: int, j0: int) -> float:
        x_side, y_side = (*x, *_link(x_link), *x_bins, x_ranks), (*y, *_link(y_link), *y_bins, y_ranks)
        return float(_rank_tile(grams[0], *x_side, grams[1], *y_side, i0, j0))

    return math.fsum(_over_tiles((x, y), work))


def pair_values(rows: Rows, link: Link) -> Array:
    """Return the values of all pairs i < j in row order, (n (n - 1) / 2,) float64."""
    n = len(rows.vectors)
    out = np.empty(n * (n - 1) // 2)

    def work(grams: list[Array], i0: int, j0: int) -> None:
        _store_tile(grams[0], *rows, *_link(link), i0, j0, out)

    _over_tiles((rows,), work)
    return out
