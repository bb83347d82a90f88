"""Sums over all pairs of rows on a GPU, without storing a pair.

The pairs i < j form a triangle, which is cut into square tiles and those into strips; a program owns one strip. It
makes the strip of each Gram matrix (see `bertft.kernels.triton_gram`), turns it into values, drops the pairs outside
the triangle, and reduces the rest: to five sums (`gram_pearson`), to counts of bins (`pair_histogram`), or to a sum of
products of ranks (`pair_rank_products`). Each program writes partial sums to a slot of its own, and these are added in
float64 in a fixed order; only integers are added atomically. So two runs give the same bits. O(n^2 d) operations,
O(n d) memory.

A value has the type of its rows, and so has the sum along a row of a quarter of a strip, about the center of the link.
The center itself, the sums over rows and all arithmetic of bins are float64. This rounds values no more than the dot
product did. It needs squares of values that are float32 numbers, so values between 1e-18 and 1e18. Float64 values
would need the registers that hold the Gram strips, and would run at 1/64 of the speed on consumer cards. Distances of
nearly equal float32 rows are accurate to 1e-3 of |u|; those of equal rows are exactly 0.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl

from bertft.kernels.triton_gram import (
    Tile,
    doubles,
    gram_strip,
    launch,
    pad_rows,
    pair_values,
    tile_of,
    triangle_strip,
    widest_tile,
)
from bertft.kernels.types import Array, Bins, Link, Rows

GROUP = 8
"""Tiles are walked in squares of GROUP x GROUP, so that rows shared by running programs stay in the L2 cache."""

SLAB = 1 << 20
"""Strips in one launch, which bounds the partial sums to 40 MiB."""


@triton.jit
def kept_pairs(n, first_i, first_j, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Which pairs of a strip are i < j < n. In 32 bits: 64-bit indices would take the registers of a strip."""
    i = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, COLUMNS)[None, :]
    ahead = tl.minimum(first_j - first_i, BLOCK).to(tl.int32)
    rows_left = tl.minimum(n - first_j, COLUMNS).to(tl.int32)
    return (i < j + ahead) & (j < rows_left)


@triton.jit
def column_halves(strip):
    """The left and the right half of a strip, in the registers that hold it."""
    rows: tl.constexpr = strip.shape[0]
    columns: tl.constexpr = strip.shape[1]
    return tl.split(tl.permute(tl.reshape(strip, (rows, 2, columns // 2)), (0, 2, 1)))


@triton.jit
def column_quarters(strip):
    """The quarters of a strip from left to right: float64 work on a whole strip would not fit in the registers."""
    left, right = column_halves(strip)
    first, second = column_halves(left)
    third, fourth = column_halves(right)
    return first, second, third, fourth


@triton.jit
def bins_of(values, scale_ptr, first_ptr, cells):
    """The bin of each value, see `bertft.kernels.types.Bins`; a nan goes to some bin rather than out of bounds."""
    t = (values.to(tl.float64) - tl.load(scale_ptr)) * tl.load(scale_ptr + 1)
    t = tl.minimum(tl.maximum(t, 0.0), cells.to(tl.float64))
    cell = tl.minimum(t.to(tl.int32), cells - 1)
    first = tl.load(first_ptr + cell)
    parts = tl.load(first_ptr + cell + 1) - first
    return first + tl.minimum(((t - cell.to(tl.float64)) * parts.to(tl.float64)).to(tl.int32), parts - 1)


@triton.jit(do_not_specialize=["n", "start"])
def pearson_kernel(
    x_high_ptr,
    x_low_ptr,
    x_width,
    x_shrink_ptr,
    x_offset_ptr,
    x_link_ptr,
    y_high_ptr,
    y_low_ptr,
    y_width,
    y_shrink_ptr,
    y_offset_ptr,
    y_link_ptr,
    sums_ptr,
    n,
    start,
    X_LINK: tl.constexpr,
    Y_LINK: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write the five sums of one strip."""
    slot = tl.program_id(0).to(tl.int64)
    first_i, first_j = triangle_strip(start + slot, BLOCK, COLUMNS, GROUP)
    QUARTER: tl.constexpr = COLUMNS // 4
    if (first_i < first_j + COLUMNS) & (first_j < n):
        f = gram_strip(x_high_ptr, x_low_ptr, x_width, 1, first_i, first_j, 0, x_width, BLOCK, COLUMNS, BLOCK_K, HALVES)
        g = gram_strip(y_high_ptr, y_low_ptr, y_width, 1, first_i, first_j, 0, y_width, BLOCK, COLUMNS, BLOCK_K, HALVES)
        f_quarters = column_quarters(f)
        g_quarters = column_quarters(g)
        i = first_i + tl.arange(0, BLOCK)
        f_sums = tl.zeros((BLOCK,), tl.float64)
        g_sums = tl.zeros((BLOCK,), tl.float64)
        ff_sums = tl.zeros((BLOCK,), tl.float64)
        gg_sums = tl.zeros((BLOCK,), tl.float64)
        fg_sums = tl.zeros((BLOCK,), tl.float64)
        for q in tl.static_range(4):
            j = first_j + q * QUARTER + tl.arange(0, QUARTER)
            keep = kept_pairs(n, first_i, first_j + q * QUARTER, BLOCK, QUARTER)
            f = pair_values(f_quarters[q], x_shrink_ptr, x_offset_ptr, x_link_ptr, i, j, HALVES, X_LINK)
            g = pair_values(g_quarters[q], y_shrink_ptr, y_offset_ptr, y_link_ptr, i, j, HALVES, Y_LINK)
            f = tl.where(keep, f, 0.0)
            g = tl.where(keep, g, 0.0)
            f_sums += tl.sum(f, 1)
            g_sums += tl.sum(g, 1)
            ff_sums += tl.sum(f * f, 1)
            gg_sums += tl.sum(g * g, 1)
            fg_sums += tl.sum(f * g, 1)
        sums_ptr += slot * 5
        tl.store(sums_ptr, tl.sum(f_sums, 0))
        tl.store(sums_ptr + 1, tl.sum(g_sums, 0))
        tl.store(sums_ptr + 2, tl.sum(ff_sums, 0))
        tl.store(sums_ptr + 3, tl.sum(gg_sums, 0))
        tl.store(sums_ptr + 4, tl.sum(fg_sums, 0))


@triton.jit(do_not_specialize=["n", "start", "cells"])
def histogram_kernel(
    high_ptr,
    low_ptr,
    width,
    shrink_ptr,
    offset_ptr,
    link_ptr,
    scale_ptr,
    first_ptr,
    cells,
    counts_ptr,
    n,
    start,
    LINK: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Count the values of one strip."""
    first_i, first_j = triangle_strip(start + tl.program_id(0).to(tl.int64), BLOCK, COLUMNS, GROUP)
    QUARTER: tl.constexpr = COLUMNS // 4
    if (first_i < first_j + COLUMNS) & (first_j < n):
        g = gram_strip(high_ptr, low_ptr, width, 1, first_i, first_j, 0, width, BLOCK, COLUMNS, BLOCK_K, HALVES)
        g_quarters = column_quarters(g)
        i = first_i + tl.arange(0, BLOCK)
        for q in tl.static_range(4):
            j = first_j + q * QUARTER + tl.arange(0, QUARTER)
            values = pair_values(g_quarters[q], shrink_ptr, offset_ptr, link_ptr, i, j, HALVES, LINK)
            bins = bins_of(values, scale_ptr, first_ptr, cells)
            keep = kept_pairs(n, first_i, first_j + q * QUARTER, BLOCK, QUARTER)
            tl.atomic_add(counts_ptr + bins, tl.full(bins.shape, 1, tl.int64), mask=keep, sem="relaxed")


@triton.jit(do_not_specialize=["n", "start", "x_cells", "y_cells"])
def rank_products_kernel(
    x_high_ptr,
    x_low_ptr,
    x_width,
    x_shrink_ptr,
    x_offset_ptr,
    x_link_ptr,
    y_high_ptr,
    y_low_ptr,
    y_width,
    y_shrink_ptr,
    y_offset_ptr,
    y_link_ptr,
    x_scale_ptr,
    x_first_ptr,
    x_cells,
    x_rank_ptr,
    y_scale_ptr,
    y_first_ptr,
    y_cells,
    y_rank_ptr,
    sums_ptr,
    n,
    start,
    X_LINK: tl.constexpr,
    Y_LINK: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Write the sum of the products of ranks of one strip."""
    slot = tl.program_id(0).to(tl.int64)
    first_i, first_j = triangle_strip(start + slot, BLOCK, COLUMNS, GROUP)
    QUARTER: tl.constexpr = COLUMNS // 4
    if (first_i < first_j + COLUMNS) & (first_j < n):
        f = gram_strip(x_high_ptr, x_low_ptr, x_width, 1, first_i, first_j, 0, x_width, BLOCK, COLUMNS, BLOCK_K, HALVES)
        g = gram_strip(y_high_ptr, y_low_ptr, y_width, 1, first_i, first_j, 0, y_width, BLOCK, COLUMNS, BLOCK_K, HALVES)
        f_quarters = column_quarters(f)
        g_quarters = column_quarters(g)
        i = first_i + tl.arange(0, BLOCK)
        sums = tl.zeros((BLOCK,), tl.float64)
        for q in tl.static_range(4):
            j = first_j + q * QUARTER + tl.arange(0, QUARTER)
            keep = kept_pairs(n, first_i, first_j + q * QUARTER, BLOCK, QUARTER)
            values = pair_values(f_quarters[q], x_shrink_ptr, x_offset_ptr, x_link_ptr, i, j, HALVES, X_LINK)
            x_rank = tl.load(x_rank_ptr + bins_of(values, x_scale_ptr, x_first_ptr, x_cells), mask=keep, other=0.0)
            values = pair_values(g_quarters[q], y_shrink_ptr, y_offset_ptr, y_link_ptr, i, j, HALVES, Y_LINK)
            y_rank = tl.load(y_rank_ptr + bins_of(values, y_scale_ptr, y_first_ptr, y_cells), mask=keep, other=0.0)
            sums += tl.sum(x_rank * y_rank, 1)
        tl.store(sums_ptr + slot, tl.sum(sums, 0))


def gram_pearson(x: Rows, y: Rows, x_link: Link, y_link: Link) -> Array:
    """Return the five sums over pairs i < j of f, g, f^2, g^2 and f g, the values of x and y, float64."""
    dtype = torch.promote_types(x.vectors.dtype, y.vectors.dtype)
    device = x.vectors.device
    tile = widest_tile(dtype, device)
    n = len(x.offsets)
    spaces = *pad_rows(x, x_link, dtype, tile), *pad_rows(y, y_link, dtype, tile)
    links = {"X_LINK": x_link.name, "Y_LINK": y_link.name}
    total = torch.zeros(5, dtype=torch.float64, device=device)
    for start, strips in _slabs(n, tile):
        sums = torch.zeros(strips, 5, dtype=torch.float64, device=device)
        launch(pearson_kernel, strips, tile, dtype, *spaces, sums, n, start, **links, GROUP=GROUP)
        total += sums.sum(0)
    return total


def pair_histogram(rows: Rows, link: Link, bins: Bins) -> Array:
    """Return how many pairs i < j fall in each bin, (bins,) int64."""
    dtype = rows.vectors.dtype
    tile = tile_of(dtype)
    n = len(rows.offsets)
    counts = torch.zeros(int(bins.first[-1]), dtype=torch.int64, device=rows.vectors.device)
    inputs = *pad_rows(rows, link, dtype, tile), *_table(bins)
    for start, strips in _slabs(n, tile):
        launch(histogram_kernel, strips, tile, dtype, *inputs, counts, n, start, LINK=link.name, GROUP=GROUP)
    return counts


def pair_rank_products(
    x: Rows, y: Rows, x_link: Link, y_link: Link, x_bins: Bins, y_bins: Bins, x_ranks: Array, y_ranks: Array
) -> float:
    """Return the sum over pairs i < j of x_ranks[bin of x] * y_ranks[bin of y]; ranks (bins,) are float64."""
    dtype = torch.promote_types(x.vectors.dtype, y.vectors.dtype)
    tile = tile_of(dtype)
    n = len(x.offsets)
    spaces = *pad_rows(x, x_link, dtype, tile), *pad_rows(y, y_link, dtype, tile)
    inputs = *spaces, *_table(x_bins), x_ranks, *_table(y_bins), y_ranks
    links = {"X_LINK": x_link.name, "Y_LINK": y_link.name}
    total = torch.zeros((), dtype=torch.float64, device=x.vectors.device)
    for start, strips in _slabs(n, tile):
        sums = torch.zeros(strips, dtype=torch.float64, device=total.device)
        launch(rank_products_kernel, strips, tile, dtype, *inputs, sums, n, start, **links, GROUP=GROUP)
        total += sums.sum()
    return float(total)


def _table(bins: Bins) -> tuple[torch.Tensor, torch.Tensor, int]:
    return doubles(bins.first.device, bins.low, bins.cells_per_unit), bins.first, len(bins.first) - 1


def _slabs(n: int, tile: Tile) -> list[tuple[int, int]]:
    """Return the first strip and the number of strips of every launch."""
    groups = -(-n // (tile.block * GROUP))
    strips = groups * (groups + 1) // 2 * GROUP * GROUP * (tile.block // tile.columns)
    return [(start, min(SLAB, strips - start)) for start in range(0, strips, SLAB)]
