"""The L1 loss of distance probes and its gradient on a GPU, without ever storing a predicted distance.

For each sentence and layer, `sentence_halves_kernel` shifts the projected words by about their mean. The shift changes
no distance and keeps the digits of nearby words. The kernel writes the words as float16 high + low, padded with zeros
to whole tiles. `norms_kernel` of `bertft.kernels.triton_gram` takes -|u|^2 / 2 from the diagonal of the Gram matrix, so
that equal words are exactly 0 apart. A program of `distance_loss_kernel` owns a block of words of one sentence in one
layer, and walks the sentence in tiles. The Gram tile gives the distances d_ij; they and the gold distances g_ij give
the signs s_ij = sign(d_ij - g_ij), 0 where both are equal. With w_ij = s_ij + s_ji the gradient is two more products of
matrices:

    d loss / d p_i = 2 / n^2 (u_i sum_j w_ij - sum_j w_ij u_j)

A program reads each gold distance twice and each word once for every tile, and writes the gradient of its own words
only. Nothing is added atomically, so two runs give the same bits. O(n^2 rank) operations, O(n rank) memory.

Words are pairs of float16 numbers rather than tf32x3 for the reasons given in `triton_gram`, and for one more: w_ij is
a whole number from -2 to 2, exact in float16, so the second product needs two products of float16 numbers. tf32x3
would make three at half the speed, one of them with zeros.

The shift is the mean rounded to 2^-6 of the largest entry's power of two. So words of small whole numbers, whose
distances can equal the gold ones, stay whole numbers up to a power of two, and equal distances are found exactly.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from __future__ import annotations

import torch
import triton
import triton.language as tl

from bertft.errors import ArrayError
from bertft.kernels.triton_gram import Tile, gram_strip, norms_kernel, on_device, pair_values
from bertft.kernels.types import Array

TILES = {
    # For sentences of up to 32 words, as most are: a tile of 64 would be three quarters zeros.
    "short": Tile(32, 32, 64, 4, 2),
    # The least height that fills the instructions of sm_90. Eight warps, since four would spill what a thread holds of
    # the Gram tile, the distances, the signs and a step of the gradient. 32 KiB of shared memory a stage.
    "long": Tile(64, 64, 64, 8, 3),
}


@triton.jit
def words(projected_ptr, length, rank, first_i, k, ROWS: tl.constexpr):
    """Entries k of ROWS words, [ROWS, entries], with 0 beyond the sentence and the rank; and which are within."""
    i = first_i + tl.arange(0, ROWS)
    keep = (i < length)[:, None] & (k < rank)[None, :]
    return tl.load(projected_ptr + i.to(tl.int64)[:, None] * rank + k[None, :], mask=keep, other=0.0), keep


@triton.jit
def shift_of(projected_ptr, length, rank, k, step, inverse_step, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The mean word, rounded to a multiple of step, at entries k."""
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first_i in range(0, length, ROWS):
        p, _ = words(projected_ptr, length, rank, first_i, k, ROWS)
        sums += p
    return tl.floor(tl.sum(sums, 0) / length.to(tl.float32) * inverse_step + 0.5) * step


@triton.jit(do_not_specialize=["batch", "n", "rank", "height"])
def sentence_halves_kernel(
    projected_ptr,
    lengths_ptr,
    high_ptr,
    low_ptr,
    shrink_ptr,
    batch,
    n,
    rank,
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write one sentence in one layer, shifted and scaled, as float16 high + low, with zeros up to height and width."""
    sentence = tl.program_id(0).to(tl.int64)  # those of the first layer first
    length = tl.load(lengths_ptr + sentence % batch).to(tl.int32)
    projected_ptr += sentence * n * rank
    largest = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first_k in range(0, rank, COLUMNS):
        for first_i in range(0, length, ROWS):
            p, _ = words(projected_ptr, length, rank, first_i, first_k + tl.arange(0, COLUMNS), ROWS)
            largest = tl.maximum(largest, tl.abs(p))
    exponent = tl.maximum(tl.max(tl.max(largest, 1), 0).to(tl.int32, bitcast=True) >> 23, 14)  # biased by 127
    step = ((exponent - 6) << 23).to(tl.float32, bitcast=True)
    inverse_step = ((260 - exponent) << 23).to(tl.float32, bitcast=True)

    largest = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first_k in range(0, rank, COLUMNS):
        k = first_k + tl.arange(0, COLUMNS)
        shift = shift_of(projected_ptr, length, rank, k, step, inverse_step, ROWS, COLUMNS)[None, :]
        for first_i in range(0, length, ROWS):
            p, keep = words(projected_ptr, length, rank, first_i, k, ROWS)
            largest = tl.maximum(largest, tl.where(keep, tl.abs(p - shift), 0.0))
    # As power_of_two_scales of triton_gram: into [2^13, 2^14), and back.
    exponent = tl.maximum(tl.max(tl.max(largest, 1), 0).to(tl.int32, bitcast=True) >> 23, 14)
    scale = ((267 - exponent) << 23).to(tl.float32, bitcast=True)
    shrink = ((exponent - 13) << 23).to(tl.float32, bitcast=True)

    for first_k in range(0, width, COLUMNS):
        k = first_k + tl.arange(0, COLUMNS)
        shift = shift_of(projected_ptr, length, rank, k, step, inverse_step, ROWS, COLUMNS)[None, :]
        for first_i in range(0, height, ROWS):
            p, keep = words(projected_ptr, length, rank, first_i, k, ROWS)
            u = tl.where(keep, p - shift, 0.0) * scale
            high = u.to(tl.float16)
            i = first_i + tl.arange(0, ROWS)
            at = (sentence * height + i)[:, None] * width + k[None, :]
            padded = (i < height)[:, None] & (k < width)[None, :]
            tl.store(high_ptr + at, high, mask=padded)
            tl.store(low_ptr + at, (u - high.to(tl.float32)).to(tl.float16), mask=padded)
    for first_i in range(0, height, ROWS):
        i = first_i + tl.arange(0, ROWS)
        tl.store(shrink_ptr + sentence * height + i, tl.zeros((ROWS,), tl.float32) + shrink, mask=i < height)


@triton.jit
def signs_of(differences):
    return (differences > 0.0).to(tl.float32) - (differences < 0.0).to(tl.float32)


@triton.jit(do_not_specialize=["layers", "batch", "n", "rank", "height"])
def distance_loss_kernel(
    high_ptr,
    low_ptr,
    width,
    shrink_ptr,
    offset_ptr,
    gold_ptr,
    lengths_ptr,
    sums_ptr,
    gradient_ptr,
    layers,
    batch,
    n,
    rank,
    height,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write one block's part of the loss, and add the gradient of its words to zeros."""
    program = tl.program_id(0).to(tl.int64)
    blocks = height // BLOCK
    # The layers of a sentence follow each other, so that its gold distances stay in the L2 cache.
    sentence = program // (blocks * layers)
    in_layer = program // blocks % layers * batch + sentence
    length = tl.load(lengths_ptr + sentence).to(tl.int32)
    first_i = (program % blocks).to(tl.int32) * BLOCK
    first_row = in_layer * height
    gold_ptr += sentence * n * n
    gradient_ptr += in_layer * n * rank
    i = first_i + tl.arange(0, BLOCK)
    inverse = 1.0 / tl.maximum(length, 1).to(tl.float32)
    weight = 2.0 * inverse * inverse * tl.load(shrink_ptr + first_row)
    sums = tl.zeros((BLOCK,), tl.float64)
    for first_j in range(0, tl.where(first_i < length, length, 0), COLUMNS):
        j = first_j + tl.arange(0, COLUMNS)
        keep = (i < length)[:, None] & (j < length)[None, :]
        first_left, first_right = first_row + first_i, first_row + first_j
        gram = gram_strip(high_ptr, low_ptr, width, 1, first_left, first_right, 0, width, BLOCK, COLUMNS, BLOCK_K, True)
        # The identity link gives -d / 2; it reads no center.
        values = pair_values(gram, shrink_ptr, offset_ptr, offset_ptr, first_row + i, first_row + j, True, "identity")
        distances = tl.where(values > 0.0, 0.0, -2.0 * values)  # not maximum, which would drop a nan
        there = tl.load(gold_ptr + (i[:, None] * n + j[None, :]), mask=keep, other=0.0)
        back = tl.load(gold_ptr + (j[None, :] * n + i[:, None]), mask=keep, other=0.0)
        apart = tl.where(keep, distances - there.to(tl.float32), 0.0)
        turned = tl.where(keep, distances - back.to(tl.float32), 0.0)
        sums += tl.sum(tl.abs(apart), 1)
        signs = signs_of(apart) + signs_of(turned)
        totals = tl.sum(signs, 1)
        signs = signs.to(tl.float16)
        for first_k in range(0, width, BLOCK_K):
            k = first_k + tl.arange(0, BLOCK_K)
            left = tl.arange(0, BLOCK)[:, None] * width + k[None, :]
            right = tl.arange(0, COLUMNS)[:, None] * width + k[None, :]
            step = tl.dot(signs, tl.load(low_ptr + first_right * width + right))
            step = tl.dot(signs, tl.load(high_ptr + first_right * width + right), step)
            u = tl.load(high_ptr + first_left * width + left).to(tl.float32)
            u += tl.load(low_ptr + first_left * width + left).to(tl.float32)
            at = gradient_ptr + (i[:, None] * rank + k[None, :])
            within = (i < length)[:, None] & (k < rank)[None, :]
            gradient = tl.load(at, mask=within, other=0.0)
            tl.store(at, gradient + (totals[:, None] * u - step) * weight, mask=within)
        tl.debug_barrier()  # the next tile adds to what other threads may have written
    tl.store(sums_ptr + program, tl.sum(sums, 0))


def distance_loss(projected: Array, gold: Array, lengths: Array) -> tuple[Array, Array]:
    """Return the L1 losses of squared distances and their gradient, see `bertft.kernels.reference`; float32 only."""
    if projected.dtype != torch.float32:
        raise ArrayError(
            f"projected has type {projected.dtype}; on a GPU this loss is computed in float32: convert it with .float()"
        )
    device = projected.device
    projected, gold = projected.contiguous(), gold.to(device).contiguous()
    layers, batch, n, rank = projected.shape
    lengths = torch.as_tensor(lengths, dtype=torch.int64, device=device)
    tile = TILES["short" if n <= TILES["short"].block else "long"]
    height, width = -(-n // tile.block) * tile.block, -(-rank // tile.block_k) * tile.block_k
    rows = layers * batch * height
    high, low = (torch.empty(rows, width, dtype=torch.float16, device=device) for _ in range(2))
    shrink = torch.empty(rows, dtype=torch.float32, device=device)
    offsets = torch.zeros(rows, dtype=torch.float32, device=device)
    sums = torch.empty(batch, layers, height // tile.block, dtype=torch.float64, device=device)
    gradient = torch.zeros_like(projected)
    strips = {"BLOCK": tile.block, "COLUMNS": tile.columns, "BLOCK_K": tile.block_k}
    launch = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    if rows * rank:
        with on_device(projected):
            sentence_halves_kernel[(layers * batch,)](
                *(projected, lengths, high, low, shrink, batch, n, rank, height, width),
                ROWS=32,
                COLUMNS=64,
                enable_fp_fusion=True,
            )
            norms_kernel[(rows // tile.columns,)](high, low, width, shrink, offsets, **strips, HALVES=True, **launch)
            distance_loss_kernel[(sums.numel(),)](
                *(high, low, width, shrink, offsets, gold, lengths, sums, gradient, layers, batch, n, rank, height),
                **strips,
                **launch,
            )
    losses = sums.sum(-1).T / lengths.clamp(min=1).double().square()
    return losses.to(projected.dtype), gradient
