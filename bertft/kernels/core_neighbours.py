"""The nearest rows of every row by cosine, on the CPU: products by BLAS, the selection in C++ (`bertft._core`).

A tile is a block of rows I and a block J >= I. A thread makes its float32 products and offers each pair to both of its
rows; no tile outlives that. Products only filter: what may be a neighbour is computed again in float64, so the answer
is that of float64 on every processor.
"""

from __future__ import annotations

import threading

import numpy as np

from bertft import _core
from bertft.kernels.aligned import aligned_empty
from bertft.kernels.cpu_threads import in_threads, scratch
from bertft.kernels.types import Array, Rows

TILE = 1024
"""Most rows and columns of a tile: a tile is 4 MiB, wide enough for BLAS at full speed."""


def nearest_rows(x: Array, rows: Rows, k: int) -> Array:
    """Return the numbers of the k rows nearest to each row, (n, k) int64, see `bertft.kernels.reference`."""
    n, width = x.shape
    inverses = _core.inverse_lengths(x)
    vectors = aligned_empty(x.shape, np.float32)
    vectors[...] = rows.vectors
    offsets = rows.offsets.astype(np.float32)
    slack = _slack(x, rows, vectors, inverses)
    values, numbers = np.full((n, k), -np.inf), np.zeros((n, k), dtype=np.int64)
    thresholds = np.full(n, -np.inf, dtype=np.float32)
    side = min(TILE, max(64, -(-n // 8)))
    locks = [threading.Lock() for _ in range(0, n, side)]

    def tile(i0: int, j0: int) -> None:
        left, right = vectors[i0 : i0 + side], vectors[j0 : j0 + side]
        gram = np.matmul(left, right.T, out=scratch("neighbours", (len(left), len(right)), vectors.dtype))
        first, second = locks[i0 // side], locks[j0 // side]
        with first, second if second is not first else threading.Lock():
            _core.nearer_in_tile(gram, i0, j0, x, inverses, offsets, slack, values, numbers, thresholds)

    tiles = [(i0, j0) for i0 in range(0, n, side) for j0 in range(i0, n, side)]
    in_threads(tile, tiles, operations=float(n) * n * width)
    return numbers


def _slack(x: Array, rows: Rows, vectors: Array, inverses: Array) -> Array:
    """Return what each row's k-th cosine is lowered by, (n,): what the row adds to its cosines, and the error bound.

    A float32 product of d terms in any order is off by at most d 2^-24 |u_i| |u_j| (Higham 2002, section 3.1), and
    storing u and offset as float32 adds a little. The numbers below the range of float32 are lost.
    """
    width = x.shape[1]
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    single, double = 2.0**-24, 2.0**-52
    error = single * ((width + 8) * lengths * lengths.max() + 4 * np.abs(rows.offsets).max())
    error += double * (width + 8) * 4 + width * 2.0**-125
    # The shift's square is what is left of a row's cosine with itself, 1, after 2 offset + |u|^2.
    square = 1.0 - 2.0 * rows.offsets - np.einsum("nd,nd->n", rows.vectors, rows.vectors, dtype=np.float64)
    return np.asarray(square + rows.offsets + error)
