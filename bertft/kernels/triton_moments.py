"""Shifted rows, and the sums over rows from which every bilinear measure follows, on a GPU.

A program of `rows_kernel` owns a few rows. It computes their map (mean and inverse norm) and their scalars a and e,
all in float64 whatever type the rows have. A program of `shift_kernel` owns a block of columns and a span of rows. It
maps them again, adds the float64 sums of w u^T, and writes u, as float16 high + low or as float64, side by side for
both spaces. A program of `products_kernel` owns a strip of the products u u^T, u v^T and v v^T, which are one triangle
of the joined rows, and a span of rows. The span is summed on the tensor cores (see `bertft.kernels.triton_gram`), and
the spans are added in float64 in a fixed order. O(n (d1 + d2)^2) operations; each row is read twice and its u is
written once.

One power of two, from the largest |u|, scales a whole space, since a sum over rows cannot have one for each row. An
entry keeps 22 bits down to 2^-16 of the largest |u|, and has an error of 2^-39 of it below.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from bertft.kernels.triton_gram import Tile, gram_strip, on_device, power_of_two_scales, triangle_strip, widest_tile
from bertft.kernels.types import CONSTANT, Array, Form, MomentSums, RowMap, Rows

ROWS, COLUMNS = 8, 128
"""Rows and columns of a step of `rows_kernel`: 8 float64 numbers a thread, a line of memory a warp."""

SPAN = 1024
"""Rows whose sums `shift_kernel` adds in one program, in steps of 8 x 64."""

SHORTEST, LONGEST = 256, 4096
"""Rows in one sum of `products_kernel`: enough to make writing it cheap, few enough for float32 to keep its digits."""

PROGRAMS = 1024
"""Programs of `products_kernel` to aim at, a few for every multiprocessor; each sums at least SHORTEST rows."""


@triton.jit(do_not_specialize=["n", "d"])
def rows_kernel(
    x_ptr,
    row_stride,
    column_stride,
    center_ptr,
    mean_ptr,
    scale_ptr,
    a_ptr,
    e_ptr,
    vectors_ptr,
    n,
    d,
    MAP: tl.constexpr,
    CONSTANT: tl.constexpr,
    WRITE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the map of ROWS rows, their scalars a = center . u and e = |u|^2, and u itself if WRITE."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    mean = tl.zeros((ROWS,), tl.float64)
    scale = tl.full((ROWS,), 1.0, tl.float64)
    if MAP == "centred_unit":
        sums = tl.zeros((ROWS, COLUMNS), tl.float64)
        for first in range(0, d, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            keep = inside[:, None] & (column < d)[None, :]
            x = tl.load(x_ptr + row[:, None] * row_stride + column[None, :] * column_stride, mask=keep, other=0.0)
            sums += x.to(tl.float64)
        mean = tl.sum(sums, 1) / d.to(tl.float64)
    if MAP != "raw":
        squares = tl.zeros((ROWS, COLUMNS), tl.float64)
        for first in range(0, d, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            keep = inside[:, None] & (column < d)[None, :]
            x = tl.load(x_ptr + row[:, None] * row_stride + column[None, :] * column_stride, mask=keep, other=0.0)
            x = tl.where(keep, x.to(tl.float64) - mean[:, None], 0.0)
            squares += x * x
        norm = tl.sqrt(tl.sum(squares, 1))
        has_value = norm > CONSTANT * tl.abs(mean) * tl.sqrt(d.to(tl.float64))
        has_value = has_value & (norm > 1e-120) & (norm < 1e120)  # LENGTHS, written out as constants of float64
        scale = 1.0 / tl.where(has_value, norm, float("nan"))
    products = tl.zeros((ROWS, COLUMNS), tl.float64)
    squares = tl.zeros((ROWS, COLUMNS), tl.float64)
    for first in range(0, d, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        keep = inside[:, None] & (column < d)[None, :]
        x = tl.load(x_ptr + row[:, None] * row_stride + column[None, :] * column_stride, mask=keep, other=0.0)
        center = tl.load(center_ptr + column, mask=column < d, other=0.0)[None, :]
        u = tl.where(keep, (x.to(tl.float64) - mean[:, None]) * scale[:, None] - center, 0.0)
        products += u * center
        squares += u * u
        if WRITE:
            u = u.to(vectors_ptr.dtype.element_ty)
            tl.store(vectors_ptr + row[:, None] * d + column[None, :], u, mask=keep)
    e = tl.sum(squares, 1)
    a = tl.where(e < float("inf"), tl.sum(products, 1), float("nan"))
    tl.store(mean_ptr + row, mean, mask=inside)
    tl.store(scale_ptr + row, scale, mask=inside)
    tl.store(a_ptr + row, a, mask=inside)
    tl.store(e_ptr + row, e, mask=inside)


@triton.jit(do_not_specialize=["n", "d", "height"])
def shift_kernel(
    x_ptr,
    row_stride,
    column_stride,
    center_ptr,
    mean_ptr,
    scale_ptr,
    weights_ptr,
    magnify_ptr,
    high_ptr,
    low_ptr,
    stride,
    width,
    sums_ptr,
    n,
    d,
    height,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HALVES: tl.constexpr,
):
    """Write u for a span of rows and a block of columns, zeros up to height and width, and the span's sums of w u^T."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    span = tl.program_id(1).to(tl.int64)
    center = tl.load(center_ptr + column, mask=column < d, other=0.0)[None, :]
    magnify = tl.load(magnify_ptr).to(tl.float64)
    u_sum = tl.zeros((ROWS, COLUMNS), tl.float64)
    a_sum = tl.zeros((ROWS, COLUMNS), tl.float64)
    b_sum = tl.zeros((ROWS, COLUMNS), tl.float64)
    e_sum = tl.zeros((ROWS, COLUMNS), tl.float64)
    f_sum = tl.zeros((ROWS, COLUMNS), tl.float64)
    for first in range(0, tl.minimum(height - span * SPAN, SPAN), ROWS):
        row = span * SPAN + first + tl.arange(0, ROWS)
        inside = row < n
        keep = inside[:, None] & (column < d)[None, :]
        x = tl.load(x_ptr + row[:, None] * row_stride + column[None, :] * column_stride, mask=keep, other=0.0)
        mean = tl.load(mean_ptr + row, mask=inside, other=0.0)[:, None]
        scale = tl.load(scale_ptr + row, mask=inside, other=0.0)[:, None]
        u = tl.where(keep, (x.to(tl.float64) - mean) * scale - center, 0.0)
        u_sum += u
        a_sum += u * tl.load(weights_ptr + n + row, mask=inside, other=0.0)[:, None]
        b_sum += u * tl.load(weights_ptr + 2 * n + row, mask=inside, other=0.0)[:, None]
        e_sum += u * tl.load(weights_ptr + 3 * n + row, mask=inside, other=0.0)[:, None]
        f_sum += u * tl.load(weights_ptr + 4 * n + row, mask=inside, other=0.0)[:, None]
        at = row[:, None] * stride + column[None, :]
        padded = (row < height)[:, None] & (column < width)[None, :]
        if HALVES:
            rounded = (u * magnify).to(tl.float32)
            high = rounded.to(tl.float16)
            tl.store(high_ptr + at, high, mask=padded)
            tl.store(low_ptr + at, (rounded - high.to(tl.float32)).to(tl.float16), mask=padded)
        else:
            tl.store(high_ptr + at, u, mask=padded)
    sums_ptr += span * 5 * d + column
    tl.store(sums_ptr, tl.sum(u_sum, 0), mask=column < d)
    tl.store(sums_ptr + d, tl.sum(a_sum, 0), mask=column < d)
    tl.store(sums_ptr + 2 * d, tl.sum(b_sum, 0), mask=column < d)
    tl.store(sums_ptr + 3 * d, tl.sum(e_sum, 0), mask=column < d)
    tl.store(sums_ptr + 4 * d, tl.sum(f_sum, 0), mask=column < d)


@triton.jit(do_not_specialize=["height", "span"])
def products_kernel(
    high_ptr,
    low_ptr,
    stride,
    strips_ptr,
    height,
    span,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr,
):
    """Write one strip of the products of columns, summed over one span of rows."""
    strip = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    first_i, first_j = triangle_strip(strip, BLOCK, COLUMNS, 1)
    first_k = part * span
    last_k = tl.minimum(first_k + span, height)
    sums = gram_strip(high_ptr, low_ptr, 1, stride, first_i, first_j, first_k, last_k, BLOCK, COLUMNS, BLOCK_K, HALVES)
    i = tl.arange(0, BLOCK)[:, None]
    j = tl.arange(0, COLUMNS)[None, :]
    slot = part * tl.num_programs(0) + strip
    tl.store(strips_ptr + slot * BLOCK * COLUMNS + i * COLUMNS + j, sums)


def shifted_rows(x: Array, center: Array, row_map: RowMap, form: Form) -> Rows:
    """Return u = map(x) - center with the offsets of the form, see `bertft.kernels.types`."""
    x = torch.as_tensor(x)
    vectors = torch.empty(x.shape, dtype=_product_type(x), device=x.device)
    _, _, a, e = _scalars(x, _center(center, x), row_map, vectors)
    return Rows(vectors, a if form == "dot" else torch.where(a.isnan(), a, -0.5 * e))


def moments(x: Array, y: Array, x_center: Array, y_center: Array, row_map: RowMap) -> MomentSums:
    """Return the sums over rows from which every bilinear measure follows."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    dtype = torch.promote_types(_product_type(x), _product_type(y))
    tile = widest_tile(dtype, x.device)
    (n, d1), d2 = x.shape, y.shape[1]
    x_center, y_center = _center(x_center, x), _center(y_center, y)
    *x_map, a, e = _scalars(x, x_center, row_map)
    *y_map, b, f = _scalars(y, y_center, row_map)
    weights = torch.stack([torch.ones_like(a), a, b, e, f])

    # Both spaces side by side, each filling whole tiles: the tiles of the triangle of the joined products.
    x_width, y_width = (-(-d // tile.block) * tile.block for d in (d1, d2))
    height = -(-n // tile.block_k) * tile.block_k
    stored = torch.float64 if dtype == torch.float64 else torch.float16
    high = torch.empty(height, x_width + y_width, dtype=stored, device=x.device)
    low = high if dtype == torch.float64 else torch.empty_like(high)
    scales = torch.stack([e.max(), f.max()]).sqrt().float()
    magnify, shrink = power_of_two_scales(scales)
    x_part, y_part = slice(0, x_width), slice(x_width, None)
    x_vectors = _shift(x, x_center, x_map, weights, magnify[0], high[:, x_part], low[:, x_part])
    y_vectors = _shift(y, y_center, y_map, weights, magnify[1], high[:, y_part], low[:, y_part])
    products = _products(high, low, tile)

    s, t = shrink.double() if dtype == torch.float32 else torch.ones_like(shrink, dtype=torch.float64)
    rest = slice(x_width, x_width + d2)
    return MomentSums(
        weights @ weights.T,
        x_vectors,
        y_vectors,
        products[:d1, :d1] * s * s,
        products[:d1, rest] * s * t,
        products[rest, rest] * t * t,
    )


def shared_moments(
    x: Array, ys: Sequence[Array], x_center: Array, y_centers: Sequence[Array], row_map: RowMap
) -> list[MomentSums]:
    """Return the moments of x with each of several y, one at a time: the kernels multiply both spaces as one."""
    return [moments(x, y, x_center, y_center, row_map) for y, y_center in zip(ys, y_centers, strict=True)]


def _product_type(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _center(center: Array, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(center, dtype=torch.float64, device=x.device).contiguous()


def _scalars(
    x: torch.Tensor, center: torch.Tensor, row_map: RowMap, vectors: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Return the mean and scale that map each row, a and e; write the mapped rows to `vectors`, if given."""
    n, d = x.shape
    mean, scale, a, e = torch.empty(4, n, dtype=torch.float64, device=x.device)
    with on_device(x):
        rows_kernel[(-(-n // ROWS),)](
            x,
            *x.stride(),
            center,
            mean,
            scale,
            a,
            e,
            mean if vectors is None else vectors,
            n,
            d,
            MAP=row_map,
            CONSTANT=CONSTANT,
            WRITE=vectors is not None,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            enable_fp_fusion=True,
        )
    return mean, scale, a, e


def _shift(
    x: torch.Tensor,
    center: torch.Tensor,
    row_maps: list[torch.Tensor],
    weights: torch.Tensor,
    magnify: torch.Tensor,
    high: torch.Tensor,
    low: torch.Tensor,
) -> torch.Tensor:
    """Fill one space's columns of `high` and `low`, and return the sum of w u^T, (5, d)."""
    (n, d), (height, width) = x.shape, high.shape
    spans = -(-height // SPAN)
    sums = torch.empty(spans, 5, d, dtype=torch.float64, device=x.device)
    with on_device(x):
        shift_kernel[(-(-width // 64), spans)](
            x,
            *x.stride(),
            center,
            *row_maps,
            weights,
            magnify,
            high,
            low,
            high.stride(0),
            width,
            sums,
            n,
            d,
            height,
            SPAN=SPAN,
            ROWS=8,
            COLUMNS=64,
            HALVES=high.dtype == torch.float16,
            enable_fp_fusion=True,
        )
    return sums.sum(0)


def _products(high: torch.Tensor, low: torch.Tensor, tile: Tile) -> torch.Tensor:
    """Return the symmetric products of all columns, float64."""
    height, width = high.shape
    tiles = width // tile.block
    strips = tiles * (tiles + 1) // 2 * (tile.block // tile.columns)
    parts = max(-(-height // LONGEST), min(height // SHORTEST, PROGRAMS // strips), 1)
    span = -(-height // (parts * tile.block_k)) * tile.block_k
    parts = -(-height // span)
    halves = high.dtype == torch.float16
    summed = torch.float32 if halves else torch.float64
    sums = torch.empty(parts, strips, tile.block, tile.columns, dtype=summed, device=high.device)
    with on_device(high):
        products_kernel[(strips, parts)](
            high,
            low,
            high.stride(0),
            sums,
            height,
            span,
            BLOCK=tile.block,
            COLUMNS=tile.columns,
            BLOCK_K=tile.block_k,
            HALVES=halves,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=True,
        )
    square = torch.zeros(tiles, tiles, tile.block, tile.block, dtype=torch.float64, device=high.device)
    j, i = torch.tril_indices(tiles, tiles, device=high.device)  # the order in which the kernel walks its tiles
    joined = sums.sum(0, dtype=torch.float64).unflatten(0, (len(i), -1)).transpose(1, 2)
    square[i, j] = joined.reshape(len(i), tile.block, tile.block)
    upper = square.transpose(1, 2).reshape(width, width).triu()
    return upper + upper.triu(1).T
