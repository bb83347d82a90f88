"""Sums over all pairs of rows on a GPU, without ever storing a pair.

The pairs i < j form a triangle, cut into square tiles and those into strips; a program owns one strip.  It forms the
strip of each Gram matrix on the tensor cores, turns it into values, drops the pairs outside the triangle, and reduces
what is left: to five sums (`gram_pearson`), to counts of bins (`pair_histogram`), to a sum of products of ranks
(`pair_rank_products`).  Partial sums lie in a slot of their own and are added in float64 in a fixed order; only
integers are added atomically.  So two runs give the same bits.  O(n^2 d) operations, O(n d) memory.

Float32 rows are multiplied as pairs of float16 numbers.  A row, scaled by a power of two so that its largest entry
lies below 2^14, is high + low to 22 bits (entries under 2^-16 of the largest: to 2^-39 of the largest), and three
products, low high + high low + high high, are as good as tf32x3 at twice its rate: a tensor core does float16 twice as
fast as tf32, and the operands go to it from shared memory without being cut up in registers (Ootomo and Yokota 2022,
arXiv:2203.03341).  Tensor cores round sums towards zero, so each step of BLOCK_K columns is summed on its own and the
steps are added in float32: with that rounding emulated, the error of a dot product at d = 768 is at most 4e-7 of
|u_i| |u_j|, against 4e-6 for a sum that never leaves the tensor core.  Float64 rows stay float64 throughout.

A value is in the type of its row, and so is the sum along a row of a quarter of a strip, about the center of the link;
the center itself, the sums over rows and all of the arithmetic of bins are float64.  This rounds values no more than
the dot product did, and wants their squares to be float32 numbers, so values of 1e-18 to 1e18.  Float64 values would
need the registers that hold the Gram strips, and would run at 1/64 of the speed on cards that are not made for them.
Distances of nearly equal float32 rows are good to 1e-3 of |u|; those of equal rows are exactly 0.

The value of a pair is the same bits in every kernel here: the same steps in the same order, and no product that a
compiler could round differently by contracting it with a sum, since scales are powers of two.  So the second pass of
Spearman sees the bins of the first.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from bertft.kernels.types import Array, Bins, Link, Rows


class Tile(NamedTuple):
    """How the work is cut: square tiles of `block` rows, strips of `columns`, sums over `block_k` entries a step."""

    block: int
    columns: int
    block_k: int
    num_warps: int
    num_stages: int


TILES: dict[str, Tile] = {
    # Two Gram strips and one step take 3 x 32 of the 255 registers of a thread, which leaves sm_80 room for its
    # operands.  48 KiB of shared memory a stage.
    "float32": Tile(128, 64, 64, 8, 3),
    # sm_90 reads its operands from shared memory, so there is room for 3 x 64, and a row fetched from the L2 cache
    # meets twice as many others; float64 work on pairs, which bins are, would not fit.  64 KiB a stage.
    "float32 on sm_90": Tile(128, 128, 64, 8, 3),
    # Each number takes two registers.  12 KiB a stage.
    "float64": Tile(64, 32, 16, 4, 3),
}

GROUP = 8
"""Tiles are walked in squares of GROUP x GROUP, so that the rows programs share at one time stay in the L2 cache."""

SLAB = 1 << 20
"""Strips in one launch, which bounds the partial sums to 40 MiB."""


@triton.jit
def triangle_strip(t, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """First row and column of strip t: groups of tiles go by columns of the triangle, some reach below its diagonal."""
    tile = t // (BLOCK // COLUMNS)
    group = tile // (GROUP * GROUP)
    column = (tl.sqrt(8.0 * group.to(tl.float64) + 1.0) * 0.5 - 0.5).to(tl.int64)
    # The root is rounded, so the column can be one off either way.
    column -= (column * (column + 1) // 2 > group).to(tl.int64)
    column += ((column + 1) * (column + 2) // 2 <= group).to(tl.int64)
    row = group - column * (column + 1) // 2
    first_i = (row * GROUP + tile % GROUP) * BLOCK
    first_j = (column * GROUP + tile // GROUP % GROUP) * BLOCK + t % (BLOCK // COLUMNS) * COLUMNS
    return first_i, first_j


@triton.jit
def gram_strip(
    high_ptr,
    low_ptr,
    row_stride,
    k_stride,
    first_i,
    first_j,
    first_k,
    last_k,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
):
    """Dot products of rows i and j over entries first_k to last_k, [BLOCK, COLUMNS].  Rows are padded: no masks."""
    k = tl.arange(0, BLOCK_K)
    left = tl.arange(0, BLOCK)[:, None] * row_stride + k[None, :] * k_stride  # [BLOCK, BLOCK_K]
    right = tl.arange(0, COLUMNS)[None, :] * row_stride + k[:, None] * k_stride  # [BLOCK_K, COLUMNS]
    first_left = first_i * row_stride
    first_right = first_j * row_stride
    gram = tl.zeros((BLOCK, COLUMNS), tl.float32 if HALVES else tl.float64)
    for step_k in range(first_k, last_k, BLOCK_K):
        left_high = tl.load(high_ptr + first_left + step_k * k_stride + left)
        right_high = tl.load(high_ptr + first_right + step_k * k_stride + right)
        if HALVES:
            left_low = tl.load(low_ptr + first_left + step_k * k_stride + left)
            right_low = tl.load(low_ptr + first_right + step_k * k_stride + right)
            step = tl.dot(left_low, right_high)
            step = tl.dot(left_high, right_low, step)
            gram += tl.dot(left_high, right_high, step)
        else:
            gram = tl.dot(left_high, right_high, gram, out_dtype=tl.float64)
    return gram


@triton.jit
def pair_values(g, shrink_ptr, offset_ptr, link_ptr, i, j, HALVES: tl.constexpr, LINK: tl.constexpr):
    """The values of pairs (i, j) from their dot products g, in the type of g."""
    dtype: tl.constexpr = g.dtype
    if HALVES:
        g = g * tl.load(shrink_ptr + i)[:, None] * tl.load(shrink_ptr + j)[None, :]
    g += tl.load(offset_ptr + i)[:, None] + tl.load(offset_ptr + j)[None, :]
    if LINK == "identity":  # its center is in the offsets
        return g
    if LINK == "euclidean":
        g = -2.0 * g
        value = tl.sqrt(tl.where(g < 0.0, 0.0, g))  # not maximum, which would drop a nan
    else:
        value = tl.exp((2.0 * tl.load(link_ptr)).to(dtype) * g)
    center = tl.load(link_ptr + 1)
    rounded = center.to(dtype)
    return (value - rounded) - (center - rounded.to(tl.float64)).to(dtype)


@triton.jit
def kept_pairs(n, first_i, first_j, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Which pairs of a strip are i < j < n.  In 32 bits: 64-bit indices would take the registers of a strip."""
    i = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, COLUMNS)[None, :]
    ahead = tl.minimum(first_j - first_i, BLOCK).to(tl.int32)
    rows_left = tl.minimum(n - first_j, COLUMNS).to(tl.int32)
    return (i < j + ahead) & (j < rows_left)


@triton.jit
def column_halves(strip):
    """The left and the right half of a strip, in the registers it lies in."""
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


@triton.jit
def halves_kernel(vectors_ptr, row_stride, column_stride, d, scale_ptr, high_ptr, low_ptr, width, BLOCK: tl.constexpr):
    """One row times its scale, as float16 high + low, with zeros from d to width."""
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(scale_ptr + row)
    for first in range(0, width, BLOCK):
        k = first + tl.arange(0, BLOCK)
        u = tl.load(vectors_ptr + row * row_stride + k * column_stride, mask=k < d, other=0.0) * scale
        high = u.to(tl.float16)
        low = (u - high.to(tl.float32)).to(tl.float16)
        tl.store(high_ptr + row * width + k, high, mask=k < width)
        tl.store(low_ptr + row * width + k, low, mask=k < width)


@triton.jit
def norms_kernel(
    high_ptr,
    low_ptr,
    width,
    shrink_ptr,
    offset_ptr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
):
    """Replaces the offsets that are numbers by -|u|^2 / 2 from the diagonal of the Gram matrix, for one strip."""
    first_j = tl.program_id(0).to(tl.int64) * COLUMNS
    first_i = first_j // BLOCK * BLOCK
    g = gram_strip(high_ptr, low_ptr, width, 1, first_i, first_j, 0, width, BLOCK, COLUMNS, BLOCK_K, HALVES)
    i = first_i + tl.arange(0, BLOCK)
    j = first_j + tl.arange(0, COLUMNS)
    norms = tl.sum(tl.where(i[:, None] == j[None, :], g, 0.0), 0)
    if HALVES:
        shrink = tl.load(shrink_ptr + j)
        norms = norms * shrink * shrink
    offsets = tl.load(offset_ptr + j)
    tl.store(offset_ptr + j, tl.where(offsets == offsets, -0.5 * norms, offsets))


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
    """The five sums of one strip."""
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
    """Counts the values of one strip."""
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
    """The sum of the products of ranks of one strip."""
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


class Space(NamedTuple):
    """The rows of one space as the kernels read them, padded with zeros to whole tiles."""

    high: torch.Tensor  # float16, or the whole of a float64 row
    low: torch.Tensor  # float16
    width: int
    shrink: torch.Tensor  # undoes the scale of a row, float32
    offsets: torch.Tensor  # in the type of a value
    link: torch.Tensor  # gamma and center as float64; a kernel would take Python floats for float32


def gram_pearson(x: Rows, y: Rows, x_link: Link, y_link: Link) -> Array:
    """The five sums over pairs i < j, float64: f, g, f^2, g^2, f g with f and g the values of x and y."""
    dtype = torch.promote_types(x.vectors.dtype, y.vectors.dtype)
    device = x.vectors.device
    tile = widest_tile(dtype, device)
    n = len(x.offsets)
    spaces = *_space(x, x_link, dtype, tile), *_space(y, y_link, dtype, tile)
    links = {"X_LINK": x_link.name, "Y_LINK": y_link.name}
    total = torch.zeros(5, dtype=torch.float64, device=device)
    for start, strips in _slabs(n, tile):
        sums = torch.zeros(strips, 5, dtype=torch.float64, device=device)
        _launch(pearson_kernel, strips, tile, dtype, *spaces, sums, n, start, **links, GROUP=GROUP)
        total += sums.sum(0)
    return total


def pair_histogram(rows: Rows, link: Link, bins: Bins) -> Array:
    """How many pairs i < j fall in each bin, (bins,) int64."""
    dtype = rows.vectors.dtype
    tile = _tile(dtype)
    n = len(rows.offsets)
    counts = torch.zeros(int(bins.first[-1]), dtype=torch.int64, device=rows.vectors.device)
    inputs = *_space(rows, link, dtype, tile), *_table(bins)
    for start, strips in _slabs(n, tile):
        _launch(histogram_kernel, strips, tile, dtype, *inputs, counts, n, start, LINK=link.name, GROUP=GROUP)
    return counts


def pair_rank_products(
    x: Rows, y: Rows, x_link: Link, y_link: Link, x_bins: Bins, y_bins: Bins, x_ranks: Array, y_ranks: Array
) -> float:
    """The sum over pairs i < j of x_ranks[bin of x] * y_ranks[bin of y]; the ranks are one number a bin, float64."""
    dtype = torch.promote_types(x.vectors.dtype, y.vectors.dtype)
    tile = _tile(dtype)
    n = len(x.offsets)
    spaces = *_space(x, x_link, dtype, tile), *_space(y, y_link, dtype, tile)
    inputs = *spaces, *_table(x_bins), x_ranks, *_table(y_bins), y_ranks
    links = {"X_LINK": x_link.name, "Y_LINK": y_link.name}
    total = torch.zeros((), dtype=torch.float64, device=x.vectors.device)
    for start, strips in _slabs(n, tile):
        sums = torch.zeros(strips, dtype=torch.float64, device=total.device)
        _launch(rank_products_kernel, strips, tile, dtype, *inputs, sums, n, start, **links, GROUP=GROUP)
        total += sums.sum()
    return float(total)


def widest_tile(dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile of kernels without float64 work on pairs."""
    if dtype == torch.float32 and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        return TILES["float32 on sm_90"]
    return _tile(dtype)


def power_of_two_scales(largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers of two that bring the float32 magnitudes `largest` into [2^13, 2^14), and their inverses, exactly."""
    exponent = (largest.view(torch.int32) >> 23).clamp(min=14)  # biased by 127; below 2^-113 the scale stays at 2^126
    return ((267 - exponent) << 23).view(torch.float32), ((exponent - 13) << 23).view(torch.float32)


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Makes the device of a tensor current, since that is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _tile(dtype: torch.dtype) -> Tile:
    return TILES["float64" if dtype == torch.float64 else "float32"]


def _space(rows: Rows, link: Link, dtype: torch.dtype, tile: Tile) -> Space:
    vectors = rows.vectors.to(dtype)
    device = vectors.device
    n, d = vectors.shape
    height, width = -(-n // tile.block) * tile.block, -(-d // tile.block_k) * tile.block_k
    if dtype == torch.float64:
        high = low = torch.zeros(height, width, dtype=dtype, device=device)
        high[:n, :d] = vectors
        shrink = high  # not read
    else:
        scale, inverse = power_of_two_scales(torch.linalg.vector_norm(vectors, float("inf"), dim=1))
        shrink = torch.nn.functional.pad(inverse, (0, height - n))
        high, low = (torch.empty(height, width, dtype=torch.float16, device=device) for _ in range(2))
        high[n:], low[n:] = 0, 0
        with on_device(vectors):
            halves_kernel[(n,)](
                vectors, *vectors.stride(), d, scale, high, low, width, BLOCK=1024, enable_fp_fusion=True
            )
    offsets = torch.zeros(height, dtype=dtype, device=device)
    # Each row takes half of the center while it is float64: the rest is small, and float32 keeps its digits.
    offsets[:n] = rows.offsets - 0.5 * link.center if link.name == "identity" else rows.offsets
    if link.name != "identity":
        # Equal rows are then exactly 0 apart, and the errors of nearly equal ones cancel, which a root would magnify.
        _launch(norms_kernel, height // tile.columns, tile, dtype, high, low, width, shrink, offsets)
    return Space(high, low, width, shrink, offsets, _numbers(device, link.gamma, link.center))


def _table(bins: Bins) -> tuple[torch.Tensor, torch.Tensor, int]:
    return _numbers(bins.first.device, bins.low, bins.cells_per_unit), bins.first, len(bins.first) - 1


def _numbers(device: torch.device, *numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def _slabs(n: int, tile: Tile) -> list[tuple[int, int]]:
    """First strip and number of strips of every launch."""
    groups = -(-n // (tile.block * GROUP))
    strips = groups * (groups + 1) // 2 * GROUP * GROUP * (tile.block // tile.columns)
    return [(start, min(SLAB, strips - start)) for start in range(0, strips, SLAB)]


def _launch(kernel: Any, programs: int, tile: Tile, dtype: torch.dtype, *arguments: Any, **constants: Any) -> None:
    with on_device(arguments[0]):
        kernel[(programs,)](
            *arguments,
            **constants,
            BLOCK=tile.block,
            COLUMNS=tile.columns,
            BLOCK_K=tile.block_k,
            HALVES=dtype == torch.float32,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=True,  # the default, which from Triton 3.9 on warns that it will change
        )
