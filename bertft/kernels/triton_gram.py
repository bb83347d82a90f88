"""Gram matrices in strips on the tensor cores of a GPU: what the kernels of pairs, moments and losses share.

Float32 rows are multiplied as pairs of float16 numbers. A row, scaled by a power of two so that its largest entry is
below 2^14, is high + low to 22 bits (entries below 2^-16 of the largest: to 2^-39 of the largest). The three products
low high + high low + high high are as accurate as tf32x3 at twice its rate: a tensor core multiplies float16 twice as
fast as tf32, and the operands reach it from shared memory without being split in registers (Ootomo and Yokota 2022,
arXiv:2203.03341). Tensor cores round sums towards zero, so each step of BLOCK_K columns is summed on its own and the
steps are added in float32. With that rounding emulated, the error of a dot product at d = 768 is at most 4e-7 of
|u_i| |u_j|, against 4e-6 for a sum that never leaves the tensor core. Float64 rows stay float64 throughout.

The value of a pair has the same bits in every kernel: the same steps in the same order, and no product that a compiler
could round differently by contracting it with a sum, since scales are powers of two. So the second pass of Spearman
sees the bins of the first.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from bertft.kernels.types import Link, Rows


class Tile(NamedTuple):
    """Sizes of the work: square tiles of `block` rows, strips of `columns`, sums over `block_k` entries a step."""

    block: int
    columns: int
    block_k: int
    num_warps: int
    num_stages: int


TILES: dict[str, Tile] = {
    # Two Gram strips and one step take 3 x 32 of the 255 registers of a thread, which leaves sm_80 room for its
    # operands. 48 KiB of shared memory a stage.
    "float32": Tile(128, 64, 64, 8, 3),
    # sm_90 reads its operands from shared memory, so there is room for 3 x 64, and a row fetched from the L2 cache
    # meets twice as many others; float64 work on pairs, which bins are, would not fit. 64 KiB a stage.
    "float32 on sm_90": Tile(128, 128, 64, 8, 3),
    # Each number takes two registers. 12 KiB a stage.
    "float64": Tile(64, 32, 16, 4, 3),
}


@triton.jit
def triangle_strip(t, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """First row and column of strip t. Groups of tiles go by columns of the triangle; some reach below its diagonal."""
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
    """Dot products of rows i and j over entries first_k to last_k, [BLOCK, COLUMNS]. Rows are padded: no masks."""
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
def halves_kernel(vectors_ptr, row_stride, column_stride, d, scale_ptr, high_ptr, low_ptr, width, BLOCK: tl.constexpr):
    """Write one row times its scale as float16 high + low, with zeros from d to width."""
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
    """Replace the offsets that are numbers by -|u|^2 / 2 from the diagonal of the Gram matrix, for one strip."""
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


class PaddedRows(NamedTuple):
    """The rows of one space as the kernels read them, padded with zeros to whole tiles."""

    high: torch.Tensor  # float16, or the whole of a float64 row
    low: torch.Tensor  # float16
    width: int
    shrink: torch.Tensor  # undoes the scale of a row, float32
    offsets: torch.Tensor  # in the type of a value
    link: torch.Tensor  # gamma and center, float64


def pad_rows(rows: Rows, link: Link, dtype: torch.dtype, tile: Tile) -> PaddedRows:
    """Return the rows of one space as the kernels read them."""
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
        launch(norms_kernel, height // tile.columns, tile, dtype, high, low, width, shrink, offsets)
    return PaddedRows(high, low, width, shrink, offsets, doubles(device, link.gamma, link.center))


def widest_tile(dtype: torch.dtype, device: torch.device) -> Tile:
    """Return the tile of kernels without float64 work on pairs."""
    if dtype == torch.float32 and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        return TILES["float32 on sm_90"]
    return tile_of(dtype)


def power_of_two_scales(largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return powers of two that bring the float32 magnitudes `largest` into [2^13, 2^14), and their exact inverses."""
    exponent = (largest.view(torch.int32) >> 23).clamp(min=14)  # biased by 127; below 2^-113 the scale stays at 2^126
    return ((267 - exponent) << 23).view(torch.float32), ((exponent - 13) << 23).view(torch.float32)


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Make the device of a tensor current: Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def tile_of(dtype: torch.dtype) -> Tile:
    """Return the tile of kernels with float64 work on pairs."""
    return TILES["float64" if dtype == torch.float64 else "float32"]


def doubles(device: torch.device, *numbers: float) -> torch.Tensor:
    """Return the numbers as a float64 tensor; a kernel would take Python floats for float32."""
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def launch(kernel: Any, programs: int, tile: Tile, dtype: torch.dtype, *arguments: Any, **constants: Any) -> None:
    """Launch a kernel that works on tiles, on the device of its first argument."""
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
